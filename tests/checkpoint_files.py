"""What checkpoints and info files hold."""

from collections import OrderedDict
from datetime import datetime

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

FORMATS = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


ARRAYS = {
    'c': np.arange(6, dtype=np.float32).reshape(2, 3),
    'fortran': np.asfortranarray(np.arange(6).reshape(2, 3)),
    'big endian': np.arange(3, dtype='>i2'),
    'bool': np.array([True, False]),
    'text': np.array(['vehicle.car', 'flat']),
    'bytes': np.array([b'ab', b'']),
    'object': np.array([1, 'two', None, np.float64(4)], dtype=object),
    'empty': np.zeros((0, 9), np.float32),
    'scalar array': np.array(2.5),
    'float64': np.float64(0.1),
    'bool scalar': np.bool_(True),
    'text scalar': np.str_('abc'),
    'dtype': np.dtype('<f4'),
}


def mmengine_like():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    losses = HistoryBuffer([0.5, 0.25], [1, 1], max_length=100)
    return {
        'meta': {'epoch': 2, 'iter': 10, 'seed': 3, 'dataset_meta': {'classes': ('car', 'bus'), **ARRAYS}},
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'message_hub': {
            'log_scalars': OrderedDict(loss=losses),
            'runtime_info': OrderedDict(iter=10, best_score=np.float64(0.5)),
            'resumed_keys': OrderedDict(loss=True, iter=True),
        },
    }


MMCV_CONFIG = """point_cloud_range = [-15.0, -30.0, -2.0, 15.0, 30.0, 2.0]
img_norm_cfg = dict(mean=[9.0, 9.0, 9.0], std=[9.0, 9.0, 9.0], to_rgb=True)
data = dict(
    samples_per_gpu=1,
    train=dict(
        type='VADCustomNuScenesDataset',
        pipeline=[
            dict(type='LoadMultiViewImageFromFiles', to_float32=True),
            dict(
                type='NormalizeMultiviewImage',
                mean=[103.53, 116.28, 123.675],
                std=[1.0, 1.0, 1.0],
                to_rgb=False),
            dict(type='PadMultiViewImage', size_divisor=32)
        ]))
optimizer = dict(type='AdamW', lr=0.0002, weight_decay=0.01)
work_dir = './work_dirs/VAD_tiny_stage_2'
gpu_ids = range(0, 1)
"""


def mmcv_like(model, epoch=2, iteration=8):
    """What mmcv 1.4's Runner stores of a training, with one parameter group per parameter (paramwise_cfg)."""
    optimizer = torch.optim.AdamW([{'params': [p], 'lr': 1e-3} for p in model.parameters()], weight_decay=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    model.load_state_dict(before)
    state = optimizer.state_dict()
    for group in state['param_groups']:  # torch 1.9 had fewer settings
        for key in ('maximize', 'foreach', 'capturable', 'differentiable', 'fused', 'decoupled_weight_decay'):
            group.pop(key, None)
        group['initial_lr'] = group['lr']
    for moments in state['state'].values():
        moments['step'] = int(moments['step'])
    weights = OrderedDict((name, value.cpu()) for name, value in before.items())
    weights._metadata = OrderedDict({'': {'version': 1}})
    meta = {
        'env_info': 'sys.platform: linux',
        'config': MMCV_CONFIG,
        'seed': 0,
        'exp_name': 'VAD_tiny_stage_2.py',
        'mmdet_version': '2.14.0',
        'mmseg_version': '0.14.1',
        'mmdet3d_version': '0.17.1',
        'CLASSES': ['car', 'truck'],
        'PALETTE': None,
        'epoch': epoch,
        'iter': iteration,
        'mmcv_version': '1.4.0',
        'time': 'Sun Mar 12 10:00:00 2023',
        'hook_msgs': {'last_ckpt': 'work_dirs/VAD_tiny_stage_2/epoch_1.pth'},
    }
    return {'meta': meta, 'state_dict': weights, 'optimizer': state}


def assert_in_format(content):
    """What stands at the top level of every checkpoint that is written."""
    assert content['version'] == 2 and type(content['state_dict']).__name__ in ('dict', 'OrderedDict')
    assert type(content['epoch']) is int and content['epoch'] == content['meta']['epoch']
    assert content['metric'] is None or type(content['metric']) is float
    assert type(content['config']) is dict and 'type' in content['config']['model']
    assert {'stage', 'timestamp', 'metric'} == {*content['metadata']} - {'command'}
    assert content['timestamp'] == content['metadata']['timestamp']
    assert datetime.fromisoformat(content['timestamp']).tzinfo is not None
    assert not {'cfg', 'config'} & {*content['meta'], *content.get('message_hub', {}).get('runtime_info', {})}


def one_line(error):
    text = str(error.value)
    assert '\n' not in text and len(text) < 400
    return text
