# Iterative magnitude pruning, with the numbers of Chen et al., ICML 2022: ten levels that prune 20 % each, 160 epochs a
# level, rewound to epoch 16 of the dense one.
sparse = dict(
    struct='imp',
    pruning_times=11,
    rate=0.2,
    prune_type='rewind_lt',
    rewind_epoch=16,
    epochs=160,
    lr=0.1,
    warmup=0,
    decreasing_lr=[80, 120])
