# ResNet-20 on the handwritten digits of scikit-learn: 1,000 images to train, 300 to validate, 497 to test; no download.
#
#   python tools/train.py configs/sparse/resnet20_digits_dense.py --work-dir OUT
#   python tools/test.py configs/sparse/resnet20_digits_dense.py OUT/epoch_8.pth
#
# 90 seconds on one CPU core, start included (OMP_NUM_THREADS=1). Seed 0, last epoch, measured:
#   top-1 99.00 % of the validation images, 98.59 % of the test images
default_scope = 'mmengine'
custom_imports = dict(imports=['vadslim.classification', 'vadslim.hooks'], allow_failed_imports=False)

epochs = 8
model = dict(
    type='vadslim.CIFARResNet',
    depth=20,
    num_classes=10,
    # digits are moved, but never mirrored
    data_preprocessor=dict(type='vadslim.ImagePreprocessor', statistics='digits', pad=4))

train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    dataset=dict(type='vadslim.Digits', split='train', size=32),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type='vadslim.Digits', split='val', size=32),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type='vadslim.Digits', split='test', size=32),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
val_evaluator = dict(type='vadslim.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=0, end=epochs, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='vadslim.CheckpointHook', interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'))
env_cfg = dict(dist_cfg=dict(backend='gloo'))
log_level = 'INFO'
randomness = dict(seed=0)
load_from = None
resume = False
