# ViT-tiny on the handwritten digits of scikit-learn (16 x 16): IMP of weights, Refill or RSST of heads and neurons.
#
#   python tools/main_imp_fillback.py configs/sparse/vit_tiny_digits.py --struct rsst --save_dir OUT
#
# Two CPU cores, no download; an epoch takes 5.5 s on one core. docs/sparse_training.md has the accuracies.
_base_ = [
    '../_base_/classification/models/vit_tiny.py',
    '../_base_/classification/datasets/digits_16.py',
    '../_base_/classification/runtime.py',
]
model = _base_.data
# moved images are too hard for so few steps
model.data_preprocessor.pad = 0
sparse = dict(
    arch='vit_tiny',
    dataset='digits',
    struct='rsst',
    criteria='magnitude',
    vit_structured=True,
    vit_prune_target='both',
    pruning_times=6,
    rate=0.4,
    epochs=8,
    batch_size=25,
    optimizer='adamw',
    lr=5e-4,
    weight_decay=0.05,
    warmup=1,
    decreasing_lr=[6])
