# VAD-tiny, second of two stages: planning, with weaker perception losses. The published VAD_tiny.pth belongs to this config.
#   tools/dist_train.sh projects/configs/VAD/VAD_tiny_stage_2.py 8
#   tools/test.py projects/configs/VAD/VAD_tiny_stage_2.py ckpts/VAD_tiny.pth
# Hardware: eight GPUs, one sample each. Time: not published.
# Expected on nuScenes val: L2 0.46 / 0.76 / 1.12 m at 1 / 2 / 3 s. Collisions: 0.21 / 0.35 / 0.58 % in the paper, while users of the
# released weights report 0.107 / 0.244 / 0.417 % (box).
_base_ = './VAD_tiny_e2e.py'

model = dict(
    pts_bbox_head=dict(
        loss_cls=dict(loss_weight=0.8),
        loss_bbox=dict(loss_weight=0.1),
        loss_map_cls=dict(loss_weight=0.8),
        loss_map_pts=dict(loss_weight=0.4)),
    train_cfg=dict(
        pts=dict(
            assigner=dict(cls_cost=dict(weight=0.8), reg_cost=dict(weight=0.1)),
            map_assigner=dict(cls_cost=dict(weight=0.8), pts_cost=dict(weight=0.4)))))

train_cfg = dict(max_epochs=12, val_interval=12)
load_from = 'ckpts/VAD_tiny_stage_1.pth'
