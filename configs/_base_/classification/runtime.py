# What recipes of classifiers share: MMEngine's scope, checkpoints that are safe and whole, processes over gloo.
default_scope = 'mmengine'
custom_imports = dict(imports=['vadslim.classification', 'vadslim.hooks'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='vadslim.CheckpointHook', interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    sync_buffers=dict(type='SyncBuffersHook'))  # else each process has norms of its own, and saved are those of the first
env_cfg = dict(dist_cfg=dict(backend='gloo'))
log_level = 'INFO'
load_from = None
resume = False
