"""Batches of a config's training data that run through a network: for scoring units and for recalibrating norms."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, get_dist_info
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vadslim.cli import UserError
from vadslim.pruning.passes import random_state_kept

# of a train_dataloader; which samples come, and to whom, is said here
_OTHERS = (
    'batch_sampler',
    'drop_last',
    'multiprocessing_context',
    'num_batch_per_epoch',
    'persistent_workers',
    'prefetch_factor',
    'sampler',
    'shuffle',
    'worker_init_fn',
)


def loss_batches(
    cfg: Config,
    count: int,
    seed: int = 0,
    *,
    shared: bool = True,
    workers: int | None = None,
    console: Console | None = None,
    title: str = 'batches',
) -> LossBatches:
    """Batches of the config's train_dataloader, drawn at random: dataset, pipeline, collation, batch size are its.

    The seed decides which samples come and how they are augmented, whatever the number of workers and processes: with
    several processes each gets its share of the same batches, whole ones. (A sampler of the config deals out single
    samples, so that the batches would depend on the number of processes; it is not used.)

    Args:
        cfg: With ``train_dataloader``; of a model with ``data_preprocessor`` and mode 'loss' (MMEngine's BaseModel).
        count: Number of batches, of all processes together.
        seed: Of the draw.
        shared: Each process takes its share, and all have to score. Otherwise this one takes all batches, and nothing
            is exchanged.
        workers: Data loading processes; None is the config's number.
        console: Of the progress bar, which only rank 0 shows.
        title: What the bar says.

    Raises:
        UserError: The config has no training data, or they cannot be read.
    """
    if count < 1:
        raise UserError(f'{count} batches: at least 1 is needed')
    loader_cfg = cfg.get('train_dataloader')
    if not isinstance(loader_cfg, Mapping):
        raise UserError(f'{cfg.filename or "the config"}: has no train_dataloader, and data are needed')
    rank, world = get_dist_info() if shared else (0, 1)
    numbers = range(rank, count, world)
    options = {key: copy.deepcopy(value) for key, value in loader_cfg.items() if key not in _OTHERS}
    size = options.setdefault('batch_size', 1)
    if workers is not None:
        options['num_workers'] = workers
    options['dataset'] = {
        'type': DrawnSamples,
        'dataset': options['dataset'],
        'size': count * size,
        'seed': seed,
    }
    options['sampler'] = [number * size + place for number in numbers for place in range(size)]
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        loader = Runner.build_dataloader(options, seed=seed)
    except OSError as error:
        raise _unreadable(cfg, error) from error
    return LossBatches(cfg, loader, numbers, world > 1, console, title)


def _unreadable(cfg: Config, error: OSError) -> UserError:
    where = error.filename or cfg.filename or 'the config'
    return UserError(f'{where}: the data of train_dataloader cannot be read: {error.strerror or error}')


@dataclass
class LossBatches:
    """What a data-driven importance takes; each pass over it gives the same batches of this process.

    Attributes:
        cfg: Where the data come from.
        loader: Gives this process's batches.
        numbers: Theirs among those of all processes.
        shared: Other processes have the other batches; sums over batches are added up by ``reduce``.
    """

    cfg: Config
    loader: DataLoader
    numbers: range
    shared: bool
    console: Console | None
    title: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[LossBatch]:
        with random_state_kept():  # a loader draws a seed for its workers
            data = iter(self.loader)
        bar = track(
            self.numbers,
            self.title,
            console=self.console,
            transient=True,
            disable=get_dist_info()[0] > 0,
        )
        for number in bar:
            try:
                batch = next(data)
            except OSError as error:
                raise _unreadable(self.cfg, error) from error
            yield LossBatch(number, batch)

    def reduce(self, vector: torch.Tensor) -> torch.Tensor:
        """The sum of the processes' float64 vectors; all of them must call it."""
        if self.shared:
            all_reduce(vector)
        return vector


@dataclass(frozen=True)
class LossBatch:
    """One batch: called with a model, it does one forward and returns the losses.

    Attributes:
        number: Among all batches of all processes.
        data: As the loader gave it; it can be used again.
    """

    number: int
    data: Any

    def __call__(self, model: nn.Module) -> Any:
        data = model.data_preprocessor(copy.deepcopy(self.data), True)
        with alone():
            if isinstance(data, Mapping):
                return model(**data, mode='loss')
            return model(*data, mode='loss') if isinstance(data, list | tuple) else model(data, mode='loss')


@contextmanager
def alone() -> Iterator[None]:
    """As if there were no other process.

    Losses of detectors are divided by means over the processes: they would depend on who has which batch, and wait
    for ever for a process that has one batch less.
    """
    with mock.patch.object(torch.distributed, 'is_initialized', lambda: False):
        yield


class DrawnSamples(Dataset):
    """Samples of a dataset in an order given by a seed, each with random numbers of its own.

    Args:
        dataset: Its config.
        size: How many; after all samples of the dataset they come again, in another order and augmented anew.
        seed: Of the order, and of what a sample draws.
    """

    def __init__(self, dataset: dict, size: int, seed: int) -> None:
        self.dataset = DATASETS.build(dataset)
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        found = len(self.dataset)
        if not found:
            raise UserError('train_dataloader: its dataset is empty')
        rounds = [np.random.default_rng([seed, turn]).permutation(found) for turn in range(-(-size // found))]
        self.order = np.concatenate(rounds)[:size]
        self.seed = seed

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Any:
        seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        with random_state_kept(seed):
            return self.dataset[int(self.order[position])]
