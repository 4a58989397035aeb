# Tiny-ImageNet, the folder tiny-imagenet-200: 90,000 images of 64 x 64 to train, 10,000 to validate, 10,000 to test (the
# archive's val folder).
# A recipe writes `model = _base_.data`, which tells the network what the data are.
data_root = 'data/tiny-imagenet-200'
data = dict(
    num_classes=200,
    image_size=64,
    data_preprocessor=dict(type='vadslim.ImagePreprocessor', statistics='tiny_imagenet', flip=True, rotate=20))

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(type='vadslim.TinyImageNet', root=data_root, split='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=500,
    num_workers=4,
    dataset=dict(type='vadslim.TinyImageNet', root=data_root, split='val'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
test_dataloader = dict(
    batch_size=500,
    num_workers=4,
    dataset=dict(type='vadslim.TinyImageNet', root=data_root, split='test'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
val_evaluator = dict(type='vadslim.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
