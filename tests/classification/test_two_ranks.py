"""Data of two processes over gloo: each augments in its own way, and a resumed training draws what it would have."""

import gc

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from vadslim.classification import Digits, ImagePreprocessor
from vadslim.classification.images import ArrayImages
from vadslim.launch import adapt_to_device
from vadslim.registry import DATASETS
from vadslim.testing import toy_runner

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
PREPROCESSOR = {'type': 'vadslim.ImagePreprocessor', 'statistics': 'digits', 'pad': 2, 'flip': True, 'rotate': 20}


@DATASETS.register_module(force=True)
class FewDigits(ArrayImages):
    """48 of them, 8 x 8."""

    def __init__(self):
        digits = Digits(size=8)
        super().__init__(digits.images[:48], digits.labels[:48])


def train(folder, workers=0, **changes):
    """Two epochs of three batches; the weights and what each batch was."""
    config = {
        'default_scope': 'mmengine',
        'work_dir': str(folder),
        'experiment_name': folder.name,
        'log_level': 'WARNING',
        'launcher': 'pytorch',
        'randomness': {'seed': 7},
        'model': {'type': 'vadslim.CIFARResNet', 'depth': 8, 'image_size': 8, 'data_preprocessor': PREPROCESSOR},
        'train_dataloader': {
            'batch_size': 8,
            'num_workers': workers,
            'dataset': {'type': 'vadslim.FewDigits'},
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'collate_fn': {'type': 'default_collate'},
        },
        'train_cfg': {'by_epoch': True, 'max_epochs': 2},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        'default_hooks': {
            'checkpoint': {'type': 'vadslim.CheckpointHook', 'interval': 1},
            'sampler_seed': {'type': 'DistSamplerSeedHook'},
            'sync_buffers': {'type': 'SyncBuffersHook'},
        },
        'custom_hooks': [{'type': 'vadslim.RandomStateHook'}],
        **changes,
    }
    config = Config(config)
    adapt_to_device(config, 'pytorch')
    runner, seen = toy_runner(config.to_dict()), []
    runner.model.module.data_preprocessor.register_forward_hook(lambda *args: seen.append(args[2]['inputs']))
    runner.train()
    return {name: value.clone() for name, value in runner.model.module.state_dict().items()}, seen


def rank_main(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', str(rank))
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        torch.manual_seed(0)
        preprocessor = ImagePreprocessor(**{key: value for key, value in PREPROCESSOR.items() if key != 'type'})
        data = {'inputs': torch.from_numpy(Digits(size=8).images[:16]), 'labels': torch.zeros(16)}
        alike = [preprocessor(data, training=True)['inputs'] for _ in range(2)]
        runs = {'whole': train(folder / 'whole'), 'workers': train(folder / 'workers', 2)}
        half = {'load_from': str(folder / 'whole' / 'epoch_1.pth'), 'resume': True}
        torch.manual_seed(99)
        runs['resumed'] = train(folder / 'resumed', **half)
    torch.save((alike, runs), folder / f'{rank}.pth')
    gc.collect()  # the last of a group's wrappers must not outlive it: its end would wait for threads that wait for it
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    torch.multiprocessing.start_processes(rank_main, (folder,), nprocs=2, start_method='fork')
    return [torch.load(folder / f'{rank}.pth') for rank in (0, 1)]


def test_each_draws_its_own(ranks):
    """Of the same images, from the same state of torch's generator."""
    batches = [images for alike, _ in ranks for images in alike]
    for i, one in enumerate(batches):
        for other in batches[:i]:
            same = sum(torch.equal(a, b) for a, b in zip(one, other))
            assert same < 4  # of 16


def test_workers_do_not_matter(ranks):
    for _, runs in ranks:
        (whole, seen), (other, seen_too) = runs['whole'], runs['workers']
        assert len(seen) == len(seen_too) == 6
        assert all(map(torch.equal, seen, seen_too))
        assert all(torch.equal(value, other[name]) for name, value in whole.items())


def test_resumed_equals_uninterrupted(ranks):
    for _, runs in ranks:
        (whole, seen), (other, again) = runs['whole'], runs['resumed']
        assert len(again) == 3 and all(map(torch.equal, seen[3:], again))
        assert all(torch.equal(value, other[name]) for name, value in whole.items())
