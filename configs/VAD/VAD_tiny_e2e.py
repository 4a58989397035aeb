# VAD-tiny, trained end to end.
#   tools/dist_train.sh projects/configs/VAD/VAD_tiny_e2e.py 8
# Hardware: eight GPUs, one sample each. Time and result: not published; the published numbers are those of the two stages.
_base_ = [
    '../_base_/models/vad_tiny.py',
    '../_base_/datasets/nuscenes_vad.py',
    '../_base_/schedules/adamw_cosine.py',
    '../_base_/default_runtime.py',
    '../_base_/distillation/vad.py',
]

model = dict(data_preprocessor=_base_.data_preprocessor)
