"""What checkpoints and info files hold."""

from collections import OrderedDict

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


def one_line(error):
    text = str(error.value)
    assert '\n' not in text and len(text) < 400
    return text
