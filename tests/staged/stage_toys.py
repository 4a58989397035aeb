"""A staged run of toys, for tests: two short trainings, the second of a wider network in mixed precision."""

import contextlib

import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from vadslim.testing import toy_config


@OPTIM_WRAPPERS.register_module(force=True)
class AmpOnCpu(AmpOptimWrapper):
    """MMEngine's, which asks for a GPU, with a scale that changes every third step."""

    def __init__(self, **options):
        OptimWrapper.__init__(self, **options)
        self.loss_scaler, self._scale_update_param = torch.amp.GradScaler('cpu', growth_interval=3), None

    @contextlib.contextmanager
    def optim_context(self, model):
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', torch.bfloat16):
            yield


WIDER = ['ffn.*', 'module.ffn.*']


def write_stages(folder, **changes):
    """Write ``toy.py``, whose stages go to ``out``; returns its path."""
    config = toy_config(folder / 'out', epochs=2, size=8)
    config['train_cfg']['val_interval'] = 1
    config['default_hooks']['checkpoint'].update(save_best='toy/accuracy', rule='greater', interval=1, max_keep_ckpts=2)
    config['param_scheduler'] = [
        {'type': 'OneCycleLR', 'eta_max': 2e-3, 'by_epoch': True,
         'convert_to_iter_based': True}
    ]  # fmt: skip
    hooks = [
        {'type': 'vadslim.RandomStateHook'},
        {'type': 'vadslim.StructureHook', 'allow_missing': WIDER, 'allow_unexpected': WIDER},
    ]
    config['stages'] = [
        {'name': 'one'},
        {
            'name': 'two',
            'epochs': 3,
            'model': {'hidden': 48},
            'custom_hooks': hooks,
            'optim_wrapper': {'type': 'AmpOnCpu'},
        },
    ]
    Config({**config, **changes}).dump(folder / 'toy.py')
    return folder / 'toy.py'
