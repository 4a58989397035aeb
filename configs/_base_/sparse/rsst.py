# RSST with the defaults of its public code: 20 levels that prune 20 % each, 120 epochs a level, rewound to the start.
sparse = dict(
    struct='rsst',
    criteria='magnitude',
    RST_schedule='exp_custom_exponents',
    exponents=4,
    reg_granularity_prune=1.0,
    pruning_times=20,
    rate=0.2,
    prune_type='lt',
    epochs=120,
    lr=0.01,
    warmup=20,
    decreasing_lr=[91])
