# The handwritten digits of scikit-learn at 16 x 16, for vision transformers; CNNs take digits.py.
_base_ = './digits.py'
image_size = 16
data = dict(image_size=image_size, data_preprocessor=dict(pad=2))
train_dataloader = dict(dataset=dict(size=image_size))
val_dataloader = dict(dataset=dict(size=image_size))
test_dataloader = dict(dataset=dict(size=image_size))
