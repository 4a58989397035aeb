# VAD-nano: all of VAD in small (0.9 M parameters, 6 x 96 x 160 pixels), on synthetic nuScenes. It is there to learn
# within minutes on a CPU, for the demonstration and the tests.
#   python tools/data_converter/make_synthetic_nuscenes.py --out data/synthetic-nuscenes
#   python tools/create_data.py nuscenes --root-path data/synthetic-nuscenes --version v1.0-mini \
#       --canbus data/synthetic-nuscenes
#   python tools/train.py projects/configs/VAD/VAD_nano_synthetic.py --gpus 2 --cfg-options train_dataloader.batch_size=2
# Hardware: two CPU cores (two processes), no GPU. Time: 480 steps of about 0.6 s, 8 minutes of CPU time.
# Result, seed 0: L2 1.08 / 1.86 / 2.67 m at 1 / 2 / 3 s; untrained 4.53 / 7.33 / 9.98, the best constant plan 1.25 / 2.11 / 2.99
# (tools/misc/constant_plan.py). docs/synthetic_data.md has more.
_base_ = [
    '../_base_/models/vad_tiny.py',
    '../_base_/datasets/nuscenes_vad.py',
    '../_base_/schedules/adamw_cosine.py',
    '../_base_/default_runtime.py',
    '../_base_/distillation/vad.py',
]

__dim = 64
__ffn_dim = 128
__bev_h, __bev_w = 30, 15  # cells of 2 m
__self_attention = dict(type='VADMultiheadAttention', embed_dims=__dim, num_heads=4, dropout=0.0)
__bev_attention = dict(type='CustomMSDeformableAttention', embed_dims=__dim, num_heads=4, num_levels=1, dropout=0.0)
__perception_layers = dict(
    attn_cfgs=[__self_attention, __bev_attention], feedforward_channels=__ffn_dim, ffn_dropout=0.0)
__interaction = dict(
    transformerlayers=dict(attn_cfgs=[__self_attention], feedforward_channels=__ffn_dim, ffn_dropout=0.0))

model = dict(
    data_preprocessor=_base_.data_preprocessor,
    use_grid_mask=False,
    img_backbone=dict(
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 1),  # a feature for every 8 pixels
        dilations=(1, 1, 1),
        out_indices=(2, ),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False),
    img_neck=dict(in_channels=[64], out_channels=__dim),
    pts_bbox_head=dict(
        in_channels=__dim,
        num_query=40,
        map_num_vec=20,
        bev_h=__bev_h,
        bev_w=__bev_w,
        ego_agent_decoder=__interaction,
        ego_map_decoder=__interaction,
        motion_decoder=__interaction,
        motion_map_decoder=__interaction,
        transformer=dict(
            embed_dims=__dim,
            rotate_center=[__bev_w / 2, __bev_h / 2],
            encoder=dict(
                num_layers=1,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(
                            type='TemporalSelfAttention', embed_dims=__dim, num_heads=4, num_levels=1, dropout=0.0),
                        dict(
                            type='SpatialCrossAttention',
                            embed_dims=__dim,
                            dropout=0.0,
                            deformable_attention=dict(
                                type='MSDeformableAttention3D',
                                embed_dims=__dim,
                                num_heads=4,
                                num_points=8,
                                num_levels=1)),
                    ],
                    feedforward_channels=__ffn_dim,
                    ffn_dropout=0.0)),
            decoder=dict(num_layers=2, transformerlayers=__perception_layers),
            map_decoder=dict(num_layers=2, transformerlayers=__perception_layers)),
        loss_plan_reg=dict(loss_weight=10.0),  # or the plan learns last: it is a small part of the sum
        bbox_coder=dict(max_num=40),
        map_bbox_coder=dict(max_num=20),
        positional_encoding=dict(num_feats=__dim // 2, row_num_embed=__bev_h, col_num_embed=__bev_w)))

data_root = 'data/synthetic-nuscenes/'
queue_length = 2
__load = [
    dict(type='VADLoadMultiViewImages', reduced=4),
    dict(type='RandomScaleImageMultiViewImage', scales=[0.4]),
]
__targets = [
    dict(type='CustomObjectRangeFilter', point_cloud_range=_base_.point_cloud_range),
    dict(type='CustomObjectNameFilter', classes=_base_.class_names),
    dict(type='VADPackInputs'),
]
train_pipeline = test_pipeline = [*__load, *__targets]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(data_root=data_root, queue_length=queue_length, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=1e-3, fused=True), paramwise_cfg=dict(_delete_=True, custom_keys={'img_backbone': dict(lr_mult=1.0)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=True),
]
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
