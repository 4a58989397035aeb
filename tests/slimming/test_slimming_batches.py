"""Batches of a config's training data: the same for a seed, whatever the number of workers and processes."""

import random
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce
from rich.console import Console

from vadslim.cli import UserError
from vadslim.pruning import Activation, Fisher, Hessian, Taylor, find_groups
from vadslim.slimming.batches import loss_batches
from vadslim.testing import ToyNet, toy_config

COUNT = 5


def config(folder, **options):
    return Config(toy_config(folder, **options))


def inputs(batches):
    return [batch.data['inputs'] for batch in batches]


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


def test_a_seed_gives_the_same_batches(tmp_path):
    cfg = config(tmp_path, size=10, batch_size=4)
    before = cfg.to_dict()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    batches = loss_batches(cfg, COUNT, seed=3)
    first = inputs(batches)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert cfg.to_dict() == before
    assert len(batches) == COUNT and [len(batch) for batch in first] == [4] * COUNT
    assert equal(first, inputs(batches))
    assert equal(first, inputs(loss_batches(cfg, COUNT, seed=3, workers=2)))
    assert equal(first[:2], inputs(loss_batches(cfg, 2, seed=3)))
    assert not equal(first, inputs(loss_batches(cfg, COUNT, seed=4)))


def test_every_sample_comes_once_before_one_comes_again_and_then_augmented_anew(tmp_path):
    cfg = config(tmp_path, size=4, batch_size=2)
    brightness = [x.mean((1, 2, 3)) for x in inputs(loss_batches(cfg, 4))]
    cfg.train_dataloader.dataset.augment = False
    plain = torch.cat([x.mean((1, 2, 3)) for x in inputs(loss_batches(cfg, 4))])
    assert sorted(plain[:4].tolist()) == sorted(plain[4:].tolist())
    assert len(set(plain.tolist())) == 4
    assert len(set(torch.cat(brightness).tolist())) == 8


def test_a_batch_gives_the_losses_of_a_model_as_often_as_it_is_asked(tmp_path):
    model = ToyNet(dropout=0.0)
    batch = next(iter(loss_batches(config(tmp_path), 1)))
    losses = [batch(model)['loss'].item() for _ in range(2)]
    assert losses[0] == losses[1]
    assert losses[0] == model(batch.data['inputs'], batch.data['labels'], mode='loss')['loss'].item()


def test_progress_is_shown(tmp_path):
    console = Console(force_terminal=True, record=True, width=100)
    list(loss_batches(config(tmp_path), 3, console=console, title='gradients'))
    assert 'gradients' in console.export_text()


@pytest.mark.parametrize(
    ('changes', 'count', 'message'),
    [
        ({'train_dataloader': None}, 1, 'has no train_dataloader'),
        ({}, 0, '0 batches: at least 1'),
    ],
)
def test_mistakes(tmp_path, changes, count, message):
    with pytest.raises(UserError, match=message):
        loss_batches(config(tmp_path, **changes), count)


class Missing(torch.utils.data.Dataset):
    """One whose file is not there."""

    def __init__(self, path):
        path.read_text()


def test_data_that_are_missing(tmp_path):
    cfg = config(tmp_path)
    cfg.train_dataloader.dataset = dict(type=Missing, path=tmp_path / 'none.json')
    with pytest.raises(
        UserError, match=re.escape(f'{tmp_path}/none.json: the data of train_dataloader cannot be read')
    ):
        loss_batches(cfg, 1)


class AveragedNet(ToyNet):
    """Its loss depends on the other processes, as those of detectors do: it is divided by a mean over them."""

    def forward(self, inputs, labels=None, mode='tensor'):
        count = torch.tensor(float(len(inputs)))
        all_reduce(count)
        return {'loss': super().forward(inputs, labels, 'loss')['loss'] / count}


def scores_of(folder):
    """The scores of all criteria, from five batches: with two processes one has three of them, the other two."""
    torch.manual_seed(0)
    groups = find_groups(ToyNet(), torch.randn(2, 3, 8, 8))
    model = AveragedNet()
    cfg = config(folder, size=12, batch_size=3)
    return {
        type(criterion).__name__: criterion(model, groups, loss_batches(cfg, COUNT, seed=1))
        for criterion in (Taylor(), Fisher(), Hessian(probes=1), Activation())
    }


def save_scores(rank, folder):
    """What each of the processes does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.save(scores_of(folder), f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


def test_two_processes_score_as_one(tmp_path):
    # forked: two more imports take long
    torch.multiprocessing.start_processes(save_scores, (str(tmp_path),), nprocs=2, start_method='fork')
    expected = scores_of(tmp_path)
    ranks = [torch.load(tmp_path / f'{rank}.pth', weights_only=False) for rank in (0, 1)]
    for name, groups in expected.items():
        assert len(groups) >= 3
        for group, scores in groups.items():
            assert np.array_equal(ranks[0][name][group], ranks[1][name][group])
            np.testing.assert_allclose(ranks[0][name][group], scores, rtol=1e-9, atol=1e-20, err_msg=f'{name} {group}')
