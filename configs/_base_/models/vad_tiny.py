# VAD-tiny: ResNet-50, one feature level, 100 x 100 cells, three layers each. The loss weights are those of end-to-end training.
# Names that begin with two underscores stay in this file. Whoever changes bev_h and bev_w changes positional_encoding.row_num_embed and
# col_num_embed with them, and transformer.rotate_center: it is in cells, and [100, 100] is what the published weights were trained with.
__pc_range = [-15.0, -30.0, -2.0, 15.0, 30.0, 2.0]  # metres: x, y, z minimum, then maximum
__dim = 256
__ffn_dim = 512

__self_attention = dict(type='VADMultiheadAttention', embed_dims=__dim, num_heads=8, dropout=0.1)
__bev_attention = dict(type='CustomMSDeformableAttention', embed_dims=__dim, num_levels=1)
__perception_layers = dict(
    type='VADTransformerLayer',
    attn_cfgs=[__self_attention, __bev_attention],
    feedforward_channels=__ffn_dim,
    ffn_dropout=0.1,
    operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'))
__interaction = dict(
    type='CustomTransformerDecoder',
    num_layers=1,
    transformerlayers=dict(
        type='VADTransformerLayer',
        attn_cfgs=[__self_attention],
        feedforward_channels=__ffn_dim,
        ffn_dropout=0.1,
        operation_order=('cross_attn', 'norm', 'ffn', 'norm')))
__focal = dict(type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)

model = dict(
    type='VAD',
    use_grid_mask=True,
    video_test_mode=True,
    # A local file with ImageNet weights, e.g. pretrained=dict(img='ckpts/resnet50-0676ba61.pth') of torchvision; the original began
    # with these. Nothing is ever downloaded.
    pretrained=None,
    img_backbone=dict(
        type='mmdet.ResNet',
        depth=50,
        num_stages=4,
        out_indices=(3, ),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='pytorch'),
    img_neck=dict(
        type='mmdet.FPN',
        in_channels=[2048],
        out_channels=__dim,
        start_level=0,
        add_extra_convs='on_output',
        num_outs=1,
        relu_before_extra_convs=True),
    pts_bbox_head=dict(
        type='VADHead',
        in_channels=__dim,
        num_query=300,
        num_classes=10,
        bev_h=100,
        bev_w=100,
        use_pe=True,
        map_thresh=0.5,
        dis_thresh=0.2,
        pe_normalization=True,
        query_thresh=0.0,
        query_use_fix_pad=False,
        ego_his_encoder=None,
        ego_lcf_feat_idx=None,
        valid_fut_ts=6,
        ego_agent_decoder=__interaction,
        ego_map_decoder=__interaction,
        motion_decoder=__interaction,
        motion_map_decoder=__interaction,
        sync_cls_avg_factor=True,
        use_traj_lr_warmup=False,
        tot_epoch=None,
        map_num_vec=100,
        map_num_classes=3,
        map_num_pts_per_vec=20,
        map_num_pts_per_gt_vec=20,
        map_query_embed_type='instance_pts',
        map_dir_interval=1,
        map_code_size=2,
        map_code_weights=[1.0, 1.0, 1.0, 1.0],
        transformer=dict(
            type='VADPerceptionTransformer',
            embed_dims=__dim,
            rotate_prev_bev=True,
            rotate_center=[100, 100],
            use_shift=True,
            use_can_bus=True,
            encoder=dict(
                type='BEVFormerEncoder',
                num_layers=3,
                pc_range=__pc_range,
                num_points_in_pillar=4,
                transformerlayers=dict(
                    type='BEVFormerLayer',
                    attn_cfgs=[
                        dict(type='TemporalSelfAttention', embed_dims=__dim, num_levels=1),
                        dict(
                            type='SpatialCrossAttention',
                            embed_dims=__dim,
                            deformable_attention=dict(
                                type='MSDeformableAttention3D', embed_dims=__dim, num_points=8, num_levels=1)),
                    ],
                    feedforward_channels=__ffn_dim,
                    ffn_dropout=0.1,
                    operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'))),
            decoder=dict(type='DetectionTransformerDecoder', num_layers=3, transformerlayers=__perception_layers),
            map_decoder=dict(type='MapDetectionTransformerDecoder', num_layers=3, transformerlayers=__perception_layers)),
        bbox_coder=dict(
            type='VADBoxCoder',
            post_center_range=[-20, -35, -10.0, 20, 35, 10.0],
            pc_range=__pc_range,
            max_num=100,
            num_classes=10),
        map_bbox_coder=dict(
            type='VADMapCoder',
            post_center_range=[-20, -35, -20, -35, 20, 35, 20, 35],
            pc_range=__pc_range,
            max_num=50,
            num_classes=3),
        positional_encoding=dict(
            type='mmdet.LearnedPositionalEncoding', num_feats=__dim // 2, row_num_embed=100, col_num_embed=100),
        loss_cls=dict(**__focal, loss_weight=2.0),
        loss_bbox=dict(type='mmdet.L1Loss', loss_weight=0.25),
        loss_traj=dict(type='mmdet.L1Loss', loss_weight=0.2),
        loss_traj_cls=dict(**__focal, loss_weight=0.2),
        loss_map_cls=dict(**__focal, loss_weight=2.0),
        loss_map_bbox=dict(type='mmdet.L1Loss', loss_weight=0.0),
        loss_map_iou=dict(type='mmdet.GIoULoss', loss_weight=0.0),
        loss_map_pts=dict(type='PtsL1Loss', loss_weight=1.0),
        loss_map_dir=dict(type='PtsDirCosLoss', loss_weight=0.005),
        loss_plan_reg=dict(type='mmdet.L1Loss', loss_weight=1.0),
        loss_plan_bound=dict(type='PlanMapBoundLoss', loss_weight=1.0, dis_thresh=1.0),
        loss_plan_col=dict(type='PlanCollisionLoss', loss_weight=1.0),
        loss_plan_dir=dict(type='PlanMapDirectionLoss', loss_weight=0.5)),
    train_cfg=dict(
        pts=dict(
            assigner=dict(
                type='HungarianAssigner3D',
                cls_cost=dict(type='FocalLossCost', weight=2.0),
                reg_cost=dict(type='BBox3DL1Cost', weight=0.25),
                pc_range=__pc_range),
            map_assigner=dict(
                type='MapHungarianAssigner3D',
                cls_cost=dict(type='FocalLossCost', weight=2.0),
                reg_cost=dict(type='BBoxL1Cost', weight=0.0, box_format='xywh'),
                iou_cost=dict(type='IoUCost', iou_mode='giou', weight=0.0),
                pts_cost=dict(type='OrderedPtsL1Cost', weight=1.0),
                pc_range=__pc_range))))
