# VAD-base, trained end to end.
#   tools/dist_train.sh projects/configs/VAD/VAD_base_e2e.py 8
# Hardware: eight GPUs, one sample each. Time and result: not published; the published numbers are those of the two stages.
_base_ = [
    '../_base_/models/vad_base.py',
    '../_base_/datasets/nuscenes_vad.py',
    '../_base_/schedules/adamw_cosine.py',
    '../_base_/default_runtime.py',
    '../_base_/distillation/vad.py',
]

model = dict(data_preprocessor=_base_.data_preprocessor)

# Larger images (720 x 1280, padded to 736 x 1280) and queues of four frames.
train_pipeline = [
    dict(type='VADLoadMultiViewImages'),
    dict(type='PhotoMetricDistortionMultiViewImage'),
    dict(type='CustomObjectRangeFilter', point_cloud_range=_base_.point_cloud_range),
    dict(type='CustomObjectNameFilter', classes=_base_.class_names),
    dict(type='RandomScaleImageMultiViewImage', scales=[0.8]),
    dict(type='VADPackInputs')
]
test_pipeline = [
    dict(type='VADLoadMultiViewImages'),
    dict(type='CustomObjectRangeFilter', point_cloud_range=_base_.point_cloud_range),
    dict(type='CustomObjectNameFilter', classes=_base_.class_names),
    dict(type='RandomScaleImageMultiViewImage', scales=[0.8]),
    dict(type='VADPackInputs')
]
train_dataloader = dict(dataset=dict(queue_length=4, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
