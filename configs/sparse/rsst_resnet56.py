# RSST of channels: ResNet-56 on CIFAR-10 (or, by --dataset, other data).
#
#   python tools/main_imp_fillback.py configs/sparse/rsst_resnet56.py --data data/cifar10 --save_dir OUT
#
# One GPU. Neither its time nor its result was measured: CIFAR-10 was not at hand. The same with --dataset digits
# --epochs 8 runs without a download, on two cores.
_base_ = [
    '../_base_/classification/models/resnet56.py',
    '../_base_/classification/datasets/cifar10.py',
    '../_base_/classification/runtime.py',
    '../_base_/sparse/rsst.py',
]
model = _base_.data
sparse = dict(arch='res56s', dataset='cifar10')
