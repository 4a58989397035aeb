"""Checkpoints as they are found: MMEngine's, our slim ones, sparse and meta tensors, parts under many names."""

import collections
import copy

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from vadslim.analysis.headers import HeaderError, read_headers
from vadslim.pruning import find_groups, make_structure


def both(path, saved):
    """Headers of what is saved in either format; they say the same."""
    found = []
    for legacy in (False, True):
        torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
        found.append(read_headers(path))
    assert {k: (e.shape, e.dtype) for k, e in found[0].tensors.items()} == {
        k: (e.shape, e.dtype) for k, e in found[1].tensors.items()
    }
    assert found[0].meta == found[1].meta
    return found[0]


def test_mmengine_checkpoint(tmp_path):
    """The model is read; message hub, optimizer, schedulers and averages are not; ``meta`` is plain data."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    checkpoint = {
        'meta': {
            'epoch': 2,
            'iter': 7,
            'cfg': 'a = 1',
            'seed': None,
            'dataset_meta': {'CLASSES': ('ü', 'b')},
            'x': {3: net},
        },
        'state_dict': collections.OrderedDict(net.state_dict()),
        'message_hub': {'log_scalars': {'loss': HistoryBuffer(np.ones(3), np.ones(3))}, 'resumed_keys': {}},
        'optimizer': optimizer.state_dict(),
        'param_schedulers': [{'last_step': 3}],
        'ema_state_dict': {f'module.{name}': value for name, value in net.state_dict().items()},
        'loss': torch.tensor(0.5),
    }
    headers = both(tmp_path / 'x.pth', checkpoint)
    assert list(headers.tensors) == list(net.state_dict())
    assert headers.meta == {
        'epoch': 2, 'iter': 7, 'cfg': 'a = 1', 'seed': None, 'dataset_meta': {'CLASSES': ['ü', 'b']}, 'x': {3: None},
    }  # fmt: skip
    del checkpoint['state_dict']
    assert list(both(tmp_path / 'x.pth', checkpoint).tensors) == [f'module.{name}' for name in net.state_dict()]


def test_slim_checkpoint(tmp_path):
    """``meta['structure']`` is what was written, shared lists included."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = find_groups(net, torch.zeros(1, 3))
    structure = make_structure(net, groups, {groups[0].name: [0, 2, 5]})
    data = structure.to_dict()
    kept = list(range(3000))
    data['groups']['more'] = {'kept': kept, 'again': kept, 'deep': [[[[[[[[[[1]]]]]]]]]]}
    headers = both(tmp_path / 'x.pth', {'meta': {'structure': data}, 'state_dict': net.state_dict()})
    assert headers.meta['structure'] == data
    assert type(structure).from_dict(headers.meta['structure'] | {'groups': structure.to_dict()['groups']}) == structure


@pytest.mark.parametrize('key', ['model', 'net', 'model_state_dict', 'ema_state_dict'])
def test_the_part_that_is_the_model(tmp_path, key):
    """The first that holds tensors, whatever lies beside it."""
    state = nn.Linear(2, 3).state_dict()
    saved = {'epoch': torch.tensor(1), 'weights': {'decay': 0.1}, 'optimizer': {'a': torch.ones(9)}}
    assert set(both(tmp_path / 'x.pth', {**saved, key: state}).tensors) == {'weight', 'bias'}
    assert set(both(tmp_path / 'x.pth', {**saved, key: {'state_dict': state}}).tensors) == {'weight', 'bias'}


@pytest.mark.filterwarnings('ignore:Sparse CSR')
def test_tensors_without_plain_bytes(tmp_path):
    """Sparse and meta tensors count by their shape."""
    dense = torch.eye(4, 6)
    saved = {
        'coo': dense.to_sparse(),
        'coalesced': dense.to_sparse().coalesce(),
        'csr': dense.to_sparse_csr(),
        'meta': torch.empty(4, 6, device='meta'),
        'parameter': nn.Parameter(dense),
    }
    headers = both(tmp_path / 'x.pth', saved)
    assert {name: (entry.shape, entry.dtype) for name, entry in headers.tensors.items()} == dict.fromkeys(
        saved, ((4, 6), 'F32')
    )
    assert [name for name, entry in headers.tensors.items() if entry.offset is not None] == ['parameter']


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning')
def test_quantised_tensors(tmp_path):
    scales, points = torch.ones(4), torch.zeros(4, dtype=torch.long)
    saved = {
        'tensor': torch.quantize_per_tensor(torch.ones(4, 6), 0.1, 3, torch.qint8),
        'channel': torch.quantize_per_channel(torch.ones(4, 6), scales, points, 0, torch.quint8),
        'eight': torch.ones(4, 6).to(torch.float8_e4m3fn),
    }
    headers = both(tmp_path / 'x.pth', saved)
    assert [entry.dtype for entry in headers.tensors.values()] == ['I8', 'U8', 'F8_E4M3']


def test_copies_of_a_module_count_once(tmp_path):
    net = nn.Linear(2, 3)
    model = nn.ModuleDict({'a': net, 'b': net, 'c': copy.deepcopy(net)})
    assert set(both(tmp_path / 'x.pth', model).tensors) == {'a.weight', 'a.bias', 'c.weight', 'c.bias'}


@pytest.mark.parametrize(
    'saved, message',
    [
        ({1: torch.ones(1), '1': torch.ones(2)}, "two tensors of the name '1'"),
        ({'a' * 3000: torch.ones(1)}, 'which nobody could read'),
        ({'\ud800': torch.ones(1)}, 'which nobody could read'),
        ({'model': {'type': 'ResNet'}}, 'holds no tensors; it holds model'),
        ([1, 2], 'holds no tensors; it holds something else'),
    ],
)
def test_what_is_refused(tmp_path, saved, message):
    with pytest.raises(HeaderError, match=message) as caught:
        both(tmp_path / 'x.pth', saved)
    assert str(caught.value).isprintable()
