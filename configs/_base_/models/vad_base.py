# VAD-base: four feature levels, 200 x 200 cells, six layers each.
_base_ = './vad_tiny.py'

__dim = 256
model = dict(
    img_backbone=dict(out_indices=(1, 2, 3)),
    img_neck=dict(in_channels=[512, 1024, 2048], num_outs=4),
    pts_bbox_head=dict(
        bev_h=200,
        bev_w=200,
        positional_encoding=dict(row_num_embed=200, col_num_embed=200),
        transformer=dict(
            encoder=dict(
                num_layers=6,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type='TemporalSelfAttention', embed_dims=__dim, num_levels=1),
                        dict(
                            type='SpatialCrossAttention',
                            embed_dims=__dim,
                            deformable_attention=dict(
                                type='MSDeformableAttention3D', embed_dims=__dim, num_points=8, num_levels=4)),
                    ])),
            decoder=dict(num_layers=6),
            map_decoder=dict(num_layers=6))))
