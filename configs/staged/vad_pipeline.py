# VAD-tiny in one run: perception, planning, slimming, fine-tuning, test; each stage starts from what the one before it left.
#
#   python tools/train_stages.py configs/staged/vad_pipeline.py --run-all-stages --gpus 8 \
#       --set "stages.stage_1.model.pretrained={img: ckpts/resnet50-0676ba61.pth}"
#   python tools/train_stages.py configs/staged/vad_pipeline.py --stage prune    # one alone starts from the stage that it names
#
# Epochs, losses and schedules are those of VAD's published recipe: 48 epochs without the plan, 12 with it, and a learning rate for
# eight samples per step (eight GPUs with one each). Its first stage began with torchvision's ResNet-50, whose first layers stay as they
# are: give that file, nothing is downloaded. Then 30 % of the units go, and what is left is trained for 6 epochs at a tenth of the rate.
# Hardware and time: as in configs/VAD/VAD_tiny_stage_2.py. Result: not measured on nuScenes; vad_pipeline_small.py is the same in
# small, on synthetic data.
# Data in another place: --set data_root=DIR/
_base_ = '../VAD/VAD_tiny_stage_2.py'

work_dir = 'work_dirs/vad_pipeline'
stages = [
    dict(name='stage_1', config='../VAD/VAD_tiny_stage_1.py'),
    dict(name='stage_2', init_from='stage_1'),
    dict(name='prune', kind='prune', init_from='stage_2', options=dict(pruning_ratio=0.3, round_to=8)),
    dict(name='fine_tune', init_from='prune', epochs=6, optim_wrapper=dict(optimizer=dict(lr=2e-5))),
    dict(name='test', kind='test', init_from='fine_tune'),
]
