# vad_pipeline.py in small: VAD-nano on synthetic nuScenes, with the same five stages.
#
#   python tools/train_stages.py configs/staged/vad_pipeline_small.py --run-all-stages
#
# Data: made as the header of configs/VAD/VAD_nano_synthetic.py says; in another place: --set data_root=DIR/
# Hardware: one CPU core, no GPU, 0.9 GB. Time: 8.5 minutes of CPU time.
# Result, seed 0, L2 at 1 / 2 / 3 s: after stage 2 1.22 / 2.07 / 2.95 m; with 0.58 of 0.87 M parameters and 61 % of the MACs, fine-tuned,
# 1.27 / 2.14 / 3.04 m. The best constant plan has 1.25 / 2.11 / 2.99 m: four epochs show how the stages go together, not how well VAD drives.
# A test runs it on a few frames.
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
