"""Detectors of MMDetection as its users write them, in small, and the pictures they look at."""

import json
from pathlib import Path

import cv2
import numpy as np

SCALE = (96, 64)


def resnet(depth=18, width=8):
    """A backbone as detectors have it: the first stage frozen, batch norms with fixed statistics."""
    return dict(
        type='ResNet',
        depth=depth,
        base_channels=width,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet'),
    )


PREPROCESSOR = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
L1, FOCAL = dict(type='L1Loss'), dict(type='FocalLoss', use_sigmoid=True)
FOUR = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)


def assigner(positive, negative, least):
    return dict(type='MaxIoUAssigner', pos_iou_thr=positive, neg_iou_thr=negative, min_pos_iou=least, ignore_iof_thr=-1)


def sampler(num):
    return dict(type='RandomSampler', num=num, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True)


NMS = dict(type='nms', iou_threshold=0.5)
BOXES = dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=NMS, max_per_img=20)
RETINANET = dict(
    type='RetinaNet',
    data_preprocessor=PREPROCESSOR,
    backbone=resnet(depth=50),
    neck=dict(
        type='FPN',
        in_channels=[32, 64, 128, 256],
        out_channels=16,
        start_level=1,
        add_extra_convs='on_input',
        num_outs=5,
    ),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=2,
        in_channels=16,
        stacked_convs=2,
        feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=FOUR,
        loss_cls=FOCAL,
        loss_bbox=L1,
    ),
    train_cfg=dict(
        assigner=assigner(0.5, 0.4, 0),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=BOXES,
)
# one head on all levels, group norms, one learned scale per level
FCOS = dict(
    type='FCOS',
    data_preprocessor=PREPROCESSOR,
    backbone=resnet(),
    neck=dict(
        type='FPN',
        in_channels=[8, 16, 32, 64],
        out_channels=16,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=2,
        in_channels=16,
        stacked_convs=2,
        feat_channels=16,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        loss_cls=FOCAL,
        loss_bbox=dict(type='IoULoss'),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
    test_cfg=BOXES,
)
FASTER_RCNN = dict(
    type='FasterRCNN',
    data_preprocessor=PREPROCESSOR,
    backbone=resnet(),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
    rpn_head=dict(
        type='RPNHead',
        in_channels=16,
        feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=FOUR,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=L1,
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=16,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=16,
            fc_out_channels=24,
            roi_feat_size=7,
            num_classes=2,
            bbox_coder=FOUR,
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
            loss_bbox=L1,
        ),
    ),
    train_cfg=dict(
        rpn=dict(assigner=assigner(0.7, 0.3, 0.3), sampler=sampler(32), allowed_border=-1, pos_weight=-1, debug=False),
        rpn_proposal=dict(nms_pre=100, max_per_img=20, nms=NMS, min_bbox_size=0),
        rcnn=dict(assigner=assigner(0.5, 0.5, 0.5), sampler=sampler(16), pos_weight=-1, debug=False),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=20, nms=NMS, min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=20),
    ),
)


def write_pictures(folder: Path) -> None:
    """Four pictures with a white box each, and their annotations in the format of COCO."""
    (folder / 'images').mkdir(parents=True)
    generator = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(4):
        image = generator.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        left, top, width, height = 10 + 5 * i, 10, 25, 30
        image[top : top + height, left : left + width] = 255
        cv2.imwrite(str(folder / 'images' / f'{i}.png'), image)
        images.append(dict(id=i, file_name=f'{i}.png', width=80, height=60))
        box = dict(bbox=[left, top, width, height], area=width * height, iscrowd=0)
        boxes.append(dict(id=i + 1, image_id=i, category_id=1 + i % 2, **box))
    categories = [dict(id=1, name='car'), dict(id=2, name='cone')]
    text = json.dumps(dict(images=images, annotations=boxes, categories=categories))
    (folder / 'boxes.json').write_text(text)


def config(model: dict, data: Path, **changes) -> dict:
    """What the configs of MMDetection hold, schedule and runtime included."""

    def loader(batch_size, train):
        flip = [dict(type='RandomFlip', prob=0.5)] if train else []
        keys = dict(meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        dataset = dict(
            type='CocoDataset',
            data_root=f'{data}/',
            ann_file='boxes.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('car', 'cone')),
            test_mode=not train,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=SCALE, keep_ratio=True),
                *flip,
                dict(type='PackDetInputs', **({} if train else keys)),
            ],
        )
        more = dict(batch_sampler=dict(type='AspectRatioBatchSampler')) if train else {}
        sampler = dict(type='DefaultSampler', shuffle=train)
        return dict(batch_size=batch_size, num_workers=0, sampler=sampler, dataset=dataset, **more)

    return dict(
        default_scope='mmdet',
        model=model,
        train_dataloader=loader(2, True),
        val_dataloader=loader(1, False),
        test_dataloader=loader(1, False),
        val_evaluator=dict(type='CocoMetric', ann_file=f'{data}/boxes.json', metric='bbox'),
        test_evaluator=dict(type='CocoMetric', ann_file=f'{data}/boxes.json', metric='bbox'),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1),
        val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
            dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
        ],
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001)),
        default_hooks=dict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=50),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(type='CheckpointHook', interval=1),
            sampler_seed=dict(type='DistSamplerSeedHook'),
            visualization=dict(type='DetVisualizationHook'),
        ),
        vis_backends=[dict(type='LocalVisBackend')],
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'),
        log_processor=dict(type='LogProcessor', window_size=50, by_epoch=True),
        log_level='ERROR',
        load_from=None,
        resume=False,
        **changes,
    )
