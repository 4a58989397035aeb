# Images in data_root/train/CLASS/* and data_root/test/CLASS/* (or val, or both), such as ImageNet's.
# A recipe writes `model = _base_.data`, which tells the network what the data are.
# Networks for images of 224 pixels: ResNets take stem='imagenet', vision transformers patch_size=16.
data_root = 'data/imagenet'
image_size = 224
data = dict(
    num_classes=1000,
    image_size=image_size,
    data_preprocessor=dict(type='vadslim.ImagePreprocessor', statistics='imagenet', pad=28, flip=True))

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type='vadslim.ImageFolder', root=data_root, split='train', size=image_size),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=100,
    num_workers=4,
    dataset=dict(type='vadslim.ImageFolder', root=data_root, split='val', size=image_size),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
test_dataloader = dict(
    batch_size=100,
    num_workers=4,
    dataset=dict(type='vadslim.ImageFolder', root=data_root, split='test', size=image_size),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
val_evaluator = dict(type='vadslim.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
