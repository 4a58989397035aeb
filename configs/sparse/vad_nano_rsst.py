# VAD-nano loses 30 % of its units while it trains: RSST over Groups, then a slim checkpoint.
_base_ = ['../VAD/VAD_nano_synthetic.py']

optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20)]
train_cfg = dict(max_epochs=2, val_interval=1)
custom_hooks = [dict(type='vadslim.GroupRSSTHook', ratio=0.3)]
custom_imports = dict(imports=['vadslim.vad', 'vadslim.hooks'], allow_failed_imports=False)
