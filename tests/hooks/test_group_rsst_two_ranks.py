"""RSST over Groups by two processes over gloo: one plan, the same weights, one set of files."""

import gc

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from vadslim.checkpoint import load_checkpoint
from vadslim.hooks import GroupRSSTHook, SlimModel
from vadslim.launch import adapt_to_device
from vadslim.pruning import StructuredPruner
from vadslim.testing import toy_config, toy_runner

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')


def train(rank, folder):
    config = toy_config(folder / 'work', epochs=4, launcher='pytorch')
    config['custom_hooks'] += [{'type': 'vadslim.GroupRSSTHook', 'ratio': 0.3}]
    config = Config(config)
    adapt_to_device(config, 'pytorch')
    runner = toy_runner(config.to_dict())
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, GroupRSSTHook)]
    if rank:
        hook.pruner = StructuredPruner(0.6)  # what it would choose does not count
    runner.train()
    return {'step': hook.step.to_dict(), 'state': runner.model.module.state_dict(), 'kind': type(runner.model).__name__}


def rank_main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', str(rank))
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr(Config, 'pretty_text', '')
        torch.save(train(rank, folder), folder / f'{rank}.pth')
    gc.collect()  # the last of a group's wrappers must not outlive it
    dist.destroy_process_group()


def test_both_go_by_the_plan_of_the_first(tmp_path):
    torch.multiprocessing.start_processes(rank_main, (tmp_path,), nprocs=2, start_method='fork')
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1))
    assert first['kind'] == 'MMDistributedDataParallel' and first['step'] == second['step']
    slim = SlimModel({'type': 'vadslim.ToyNet'}, tmp_path / 'work' / 'structure.json')
    slim.load_state_dict(load_checkpoint(tmp_path / 'work' / 'slim.pth')['state_dict'])
    assert slim.ffn[0].out_features == 23
    for name, _ in slim.named_parameters():
        assert torch.equal(first['state'][name], second['state'][name]), name
