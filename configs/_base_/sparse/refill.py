# Refill, with the numbers of Chen et al., ICML 2022: as imp.py, then channels are regrouped by what magnitude has left.
sparse = dict(
    struct='refill',
    criteria='magnitude',
    pruning_times=11,
    rate=0.2,
    prune_type='rewind_lt',
    rewind_epoch=16,
    epochs=160,
    lr=0.1,
    warmup=0,
    decreasing_lr=[80, 120])
