# VAD-nano loses 30 % of its units while it trains: RSST over Groups, from a trained dense network to a slim checkpoint.
#
#   python tools/train.py configs/sparse/vad_nano_rsst.py --load-from DENSE.pth --work-dir OUT
#   python tools/test.py configs/VAD/VAD_nano_synthetic.py OUT/slim.pth
#   python tools/train.py configs/VAD/VAD_nano_synthetic.py --load-from OUT/slim.pth      # fine-tuning
#
# Hardware: one CPU core, no GPU. Time: 160 steps of about 1 s when nothing else runs, 3 minutes. Result, seed 0, from the
# ten-epoch network of docs/synthetic_data.md: 866,086 -> 580,562 parameters, 0.57 -> 0.35 G MACs; kept weights are 13,000 times larger than
# penalised ones after three quarters; slim and not yet fine-tuned: L2 1.12 / 1.90 / 2.91 m at 1 / 2 / 3 s (dense 1.17 / 2.00 / 2.76),
# NDS 0.041 (0.045), map mAP 0.035 (0.081). docs/sparse_vad.md has one-shot slimming beside it.
_base_ = ['../VAD/VAD_nano_synthetic.py']
custom_imports = dict(imports=['vadslim.vad', 'vadslim.hooks'], allow_failed_imports=False)

# half the rate of the dense training, and no decay: fine-tuning comes afterwards, with its own
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20)]
train_cfg = dict(max_epochs=2, val_interval=2)

# lr * lambda grows by x^3 to 40 / (number of growing steps); the last quarter of the run the units are zero
custom_hooks = [dict(type='vadslim.GroupRSSTHook', ratio=0.3, schedule='x^3', strength=40.0, hold=0.25)]
