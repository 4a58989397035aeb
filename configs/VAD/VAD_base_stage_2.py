# VAD-base, second of two stages: planning, with weaker perception losses. The published VAD_base.pth belongs to this config.
#   tools/dist_train.sh projects/configs/VAD/VAD_base_stage_2.py 8
#   tools/test.py projects/configs/VAD/VAD_base_stage_2.py ckpts/VAD_base.pth
# Hardware: eight GPUs, one sample each. Time: not published.
# Expected on nuScenes val: average L2 0.72 m and average collision 0.22 % in the paper; with the released weights users report L2
# 0.41 / 0.70 / 1.05 m at 1 / 2 / 3 s.
_base_ = './VAD_base_e2e.py'

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
load_from = 'ckpts/VAD_base_stage_1.pth'
