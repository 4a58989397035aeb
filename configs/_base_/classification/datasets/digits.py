# The handwritten digits of scikit-learn at 32 x 32, for CNNs; vision transformers take digits_16.py.
# 1,000 images to train, 300 to validate, 497 to test; no download. Digits are moved, but never mirrored.
# A recipe writes `model = _base_.data`, which tells the network what the data are.
image_size = 32
data = dict(
    num_classes=10,
    image_size=image_size,
    data_preprocessor=dict(type='vadslim.ImagePreprocessor', statistics='digits', pad=4))

train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    dataset=dict(type='vadslim.Digits', split='train', size=image_size),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'))
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type='vadslim.Digits', split='val', size=image_size),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type='vadslim.Digits', split='test', size=image_size),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
val_evaluator = dict(type='vadslim.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
