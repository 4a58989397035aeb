# ResNet-20 on the handwritten digits of scikit-learn: IMP, Refill or RSST, five levels after the dense one.
#
#   python tools/main_imp_fillback.py configs/sparse/resnet20_digits.py --struct rsst --save_dir OUT
#
# Two CPU cores, no download; an epoch takes 6 s on one core. docs/sparse_training.md has the accuracies.
_base_ = [
    '../_base_/classification/models/resnet20.py',
    '../_base_/classification/datasets/digits.py',
    '../_base_/classification/runtime.py',
]
model = _base_.data
sparse = dict(
    arch='res20s',
    dataset='digits',
    struct='rsst',
    criteria='magnitude',
    pruning_times=6,
    rate=0.4,
    epochs=8,
    lr=0.1,
    warmup=1,
    decreasing_lr=[6])
