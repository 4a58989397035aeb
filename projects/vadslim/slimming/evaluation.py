"""Evaluation of networks in memory: the config's own validation data, loop and evaluators, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, EVALUATOR, LOOPS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset, Subset

from vadslim.cli import UserError
from vadslim.experiment import check_data
from vadslim.pruning.passes import random_state_kept
from vadslim.slimming.network import quiet


class Evaluation:
    """Gives the metrics of networks; each call sees the same samples and random numbers.

    The loop is that of ``val_cfg`` (MMEngine's ValLoop unless it names another), without a Runner: no hooks, no files,
    one process. A config without a val_dataloader is evaluated by its test_dataloader.

    Args:
        cfg: With loader and evaluator.
        samples: Only the first scenes, until they hold as many; the first samples where a data set has no scenes.
            None is all.
        seed: Of whatever the data draw.
        workers: Data loading processes; None is the config's number.

    Raises:
        UserError: There are no data, or no evaluator.
    """

    def __init__(self, cfg: Config, samples: int | None = None, seed: int = 0, workers: int | None = None) -> None:
        self.cfg, self.seed = cfg, seed
        part = 'val' if cfg.get('val_dataloader') and cfg.get('val_evaluator') else 'test'
        name = cfg.filename or 'the config'
        for key in (f'{part}_dataloader', f'{part}_evaluator'):
            if not cfg.get(key):
                raise UserError(f'{name}: has no val_dataloader with a val_evaluator, and none for testing')
        check_data(cfg, f'{part}_dataloader', name)
        options = cfg[f'{part}_dataloader'].to_dict()
        options['persistent_workers'] = False  # they would go on with their random numbers
        if workers is not None:
            options['num_workers'] = workers
        if not options.get('num_workers'):
            options = {k: v for k, v in options.items() if k not in ('prefetch_factor', 'multiprocessing_context')}
        options['dataset'] = {'type': first_scenes, 'dataset': options['dataset'], 'samples': samples}
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        self.runner = _Part()
        try:
            loader = Runner.build_dataloader(options, seed=seed)
        except OSError as error:
            raise self._unreadable(error) from error
        loop = {'type': 'ValLoop', **(cfg.get('val_cfg') or {})}
        metrics = cfg[f'{part}_evaluator']
        own = isinstance(metrics, dict) and 'metrics' in metrics  # an evaluator of the config's own
        evaluator = EVALUATOR.build({'type': 'Evaluator', **metrics}) if own else Evaluator(metrics)
        with quiet():
            self.loop = LOOPS.build(
                loop, default_args={'runner': self.runner, 'dataloader': loader, 'evaluator': evaluator}
            )
        self.samples = len(loader.dataset)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The metrics of a network on the device where it is; those that are no numbers are left out."""
        self.runner.model = model
        try:
            with random_state_kept(self.seed), quiet():
                metrics = self.loop.run()
        except OSError as error:
            raise self._unreadable(error) from error
        finally:
            self.runner.model = None
        return {name: float(value) for name, value in metrics.items() if _is_number(value)}

    def _unreadable(self, error: OSError) -> UserError:
        where = error.filename or self.cfg.filename or 'the config'
        return UserError(f'{where}: the data for evaluation cannot be read: {error.strerror or error}')


class _Part:
    """As much of a Runner as a validation loop asks for."""

    def __init__(self) -> None:
        self.model: nn.Module | None = None
        self.visualizer = SimpleNamespace()

    def call_hook(self, name: str, **arguments: Any) -> None:
        """There are no hooks."""


def first_scenes(dataset: dict[str, Any], samples: int | None) -> Dataset:
    """Builds a data set and keeps its first scenes, until they hold ``samples`` samples."""
    built = DATASETS.build(dataset)
    if hasattr(built, 'full_init'):
        built.full_init()
    if samples is None or samples >= len(built):
        return built
    count = end_of_scene(built.scene_tokens(), samples) if hasattr(built, 'scene_tokens') else samples
    if count >= len(built):
        return built
    if isinstance(built, BaseDataset):
        built.get_subset_(count)
        return built
    subset = Subset(built, range(count))
    if hasattr(built, 'metainfo'):
        subset.metainfo = built.metainfo
    return subset


def end_of_scene(scenes: Sequence[str], samples: int) -> int:
    """How many samples there are up to the end of the scene that the last of the first ``samples`` belongs to."""
    last = scenes[samples - 1]
    return next((number for number in range(samples, len(scenes)) if scenes[number] != last), len(scenes))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)
