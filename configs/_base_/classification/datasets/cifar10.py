# CIFAR-10, python or binary version, unpacked in data_root: 45,000 images to train, 5,000 to validate, 10,000 to test.
# A recipe writes `model = _base_.data`, which tells the network what the data are.
data_root = 'data/cifar10'
data = dict(
    num_classes=10,
    image_size=32,
    data_preprocessor=dict(type='vadslim.ImagePreprocessor', statistics='cifar10', pad=4, flip=True))

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(type='vadslim.CIFAR10', root=data_root, split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    dataset=dict(type='vadslim.CIFAR10', root=data_root, split='val'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
test_dataloader = dict(
    batch_size=500,
    num_workers=2,
    dataset=dict(type='vadslim.CIFAR10', root=data_root, split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
val_evaluator = dict(type='vadslim.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
