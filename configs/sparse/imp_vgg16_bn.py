# Iterative magnitude pruning of single weights: VGG-16 with batch norm on CIFAR-10 (or, by --dataset, other data).
#
#   python tools/main_imp_fillback.py configs/sparse/imp_vgg16_bn.py --data data/cifar10 --save_dir OUT
#
# One GPU. Neither its time nor its result was measured: CIFAR-10 was not at hand. The same with --dataset digits
# --epochs 8 runs without a download, on two cores.
_base_ = [
    '../_base_/classification/models/vgg16_bn.py',
    '../_base_/classification/datasets/cifar10.py',
    '../_base_/classification/runtime.py',
    '../_base_/sparse/imp.py',
]
model = _base_.data
sparse = dict(arch='vgg16_bn', dataset='cifar10')
