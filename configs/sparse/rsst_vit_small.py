# RSST of heads and neurons: ViT-small on CIFAR-10 (or, by --dataset, other data).
#
#   python tools/main_imp_fillback.py configs/sparse/rsst_vit_small.py --data data/cifar10 --save_dir OUT
#
# One GPU. Neither its time nor its result was measured: CIFAR-10 was not at hand. The same with --dataset digits
# --epochs 8 runs without a download, on two cores.
_base_ = [
    '../_base_/classification/models/vit_small.py',
    '../_base_/classification/datasets/cifar10.py',
    '../_base_/classification/runtime.py',
    '../_base_/sparse/rsst.py',
]
model = _base_.data
sparse = dict(
    arch='vit_small',
    dataset='cifar10',
    optimizer='adamw',
    lr=5e-4,
    weight_decay=0.05,
    warmup=10,
    vit_structured=True,
    vit_prune_target='both')
