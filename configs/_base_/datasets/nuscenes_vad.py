# nuScenes for VAD: queues of three frames in training, single frames in the order of their scenes in evaluation.
# A model config may override: point_cloud_range with the pipelines' range filters, queue_length, the image scale
# (0.4 for VAD-tiny: 360 x 640 padded to 384 x 640; 0.8 for VAD-base) and img_norm_cfg.
data_root = 'data/nuscenes/'
class_names = [
    'car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian',
    'traffic_cone'
]
map_classes = ['divider', 'ped_crossing', 'boundary']
point_cloud_range = [-15.0, -30.0, -2.0, 15.0, 30.0, 2.0]  # metres, LiDAR frame: x1 y1 z1 x2 y2 z2
queue_length = 3

# How images become numbers: (image - mean) / std per channel, after the swap to RGB if asked for. These are the
# values of VAD's public configs, which go with a torchvision backbone.
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
# The published VAD_tiny weights were trained with a caffe-style normalisation, NOT with the one of the public
# configs: with the values above they run, but drive worse. For those weights use, instead of img_norm_cfg,
published_img_norm_cfg = dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
# or on the command line: --cfg-options model.data_preprocessor.mean="[103.530,116.280,123.675]" \
#     model.data_preprocessor.std="[1.0,1.0,1.0]" model.data_preprocessor.bgr_to_rgb=False

# Model configs take it: model = dict(data_preprocessor=_base_.data_preprocessor, ...)
data_preprocessor = dict(type='VADDataPreprocessor', pad_size_divisor=32, **img_norm_cfg)

train_pipeline = [
    dict(type='VADLoadMultiViewImages'),
    dict(type='PhotoMetricDistortionMultiViewImage'),
    dict(type='CustomObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='CustomObjectNameFilter', classes=class_names),
    dict(type='RandomScaleImageMultiViewImage', scales=[0.4]),
    dict(type='VADPackInputs')
]
test_pipeline = [
    dict(type='VADLoadMultiViewImages'),
    dict(type='CustomObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='CustomObjectNameFilter', classes=class_names),
    dict(type='RandomScaleImageMultiViewImage', scales=[0.4]),
    dict(type='VADPackInputs')
]

train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='VADNuScenesDataset',
        data_root=data_root,
        ann_file='vad_nuscenes_infos_temporal_train.pkl',
        pipeline=train_pipeline,
        metainfo=dict(classes=class_names),
        queue_length=queue_length,
        pc_range=point_cloud_range,
        map_classes=map_classes,
        map_num_points=20,
        use_valid_flag=True))
val_dataloader = dict(
    batch_size=1,  # a temporal model sees the frames of a scene one after the other
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='SceneSampler'),  # scenes stay whole on one rank
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='VADNuScenesDataset',
        data_root=data_root,
        ann_file='vad_nuscenes_infos_temporal_val.pkl',
        pipeline=test_pipeline,
        metainfo=dict(classes=class_names),
        pc_range=point_cloud_range,
        map_classes=map_classes,
        map_num_points=20,
        test_mode=True))
test_dataloader = val_dataloader

val_evaluator = dict(type='VADNuScenesMetric', tasks=['detection', 'motion', 'planning'])
test_evaluator = val_evaluator
