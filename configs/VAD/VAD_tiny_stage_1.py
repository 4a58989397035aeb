# VAD-tiny, first of two stages: perception and motion, no planning losses.
#   tools/dist_train.sh projects/configs/VAD/VAD_tiny_stage_1.py 8
# Hardware: eight GPUs, one sample each. Time and result: not published; see VAD_tiny_stage_2.py.
# The original began with torchvision's ResNet-50, here a local file:
#   --cfg-options "model.pretrained={'img': 'ckpts/resnet50-0676ba61.pth'}"
_base_ = './VAD_tiny_e2e.py'

model = dict(
    pts_bbox_head=dict(
        loss_plan_reg=dict(loss_weight=0.0),
        loss_plan_bound=dict(loss_weight=0.0),
        loss_plan_col=dict(loss_weight=0.0),
        loss_plan_dir=dict(loss_weight=0.0)))

train_cfg = dict(max_epochs=48, val_interval=48)
