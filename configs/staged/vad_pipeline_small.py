# vad_pipeline.py in small: VAD-nano on synthetic nuScenes, with the same five stages.
#
#   python tools/train_stages.py configs/staged/vad_pipeline_small.py --run-all-stages
#
# Data: made as the header of configs/VAD/VAD_nano_synthetic.py says; in another place: --set data_root=DIR/
# Hardware: two CPU cores, no GPU. Time: five epochs of training, of which that config has six in 8 minutes of CPU time, and four
# evaluations. Result: not measured; a test runs it with a few frames, which takes half a minute of CPU time.
_base_ = '../VAD/VAD_nano_synthetic.py'

work_dir = 'work_dirs/vad_pipeline_small'
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=True, convert_to_iter_based=True),
]
__none = dict(loss_weight=0.0)
stages = [
    dict(
        name='stage_1',  # perception and motion, no plan
        model=dict(
            pts_bbox_head=dict(loss_plan_reg=__none, loss_plan_bound=__none, loss_plan_col=__none, loss_plan_dir=__none))),
    dict(name='stage_2', init_from='stage_1'),
    dict(name='prune', kind='prune', init_from='stage_2', options=dict(pruning_ratio=0.3)),
    dict(name='fine_tune', init_from='prune', epochs=1, optim_wrapper=dict(optimizer=dict(lr=1e-4))),
    dict(name='test', kind='test', init_from='fine_tune'),
]
