"""The dense network of the command: its config, its weights, and the run that examines it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import nn

from vadslim.analysis import Example, find_example
from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError
from vadslim.experiment import note_image_norm, weights_of
from vadslim.hooks.slim_model import checkpoint_structure, without_pretrained
from vadslim.hooks.transfer import differences, shorten
from vadslim.options import load_config, merge_texts
from vadslim.pruning import Group, Structure, resize
from vadslim.pruning.edits import Edits
from vadslim.registry import MODELS


@dataclass
class Network:
    """A network that was built and given its weights, in eval mode.

    Attributes:
        model: what is to be slimmed; already a slim one if the checkpoint is of a slim network.
        dense: the architecture that structures count in: ``model`` itself unless that is slim.
        structure: what ``model`` has left of ``dense``; None when it is dense.
        checkpoint: the file's content, ``{}`` for random weights.
    """

    cfg: Config
    model: nn.Module
    dense: nn.Module
    structure: Structure | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def examples(self) -> tuple[Example | None, Example | None, str]:
        """(small example, example of the report's sizes, why there is none).

        The model's class declares them; otherwise the first batch of the config's data serves as both.
        """
        small = find_example(self.dense, self.cfg, small=True)
        if small is not None:
            return small, find_example(self.dense, self.cfg), ''
        loader = next((k for k in ('test', 'val', 'train') if self.cfg.get(f'{k}_dataloader')), None)
        if loader is None:
            return None, None, f'{type(self.dense).__name__} declares no example, and the config has no data'
        try:
            batch = _first_batch(self.cfg[f'{loader}_dataloader'])
        except OSError as error:
            return None, None, f'the data of {loader}_dataloader cannot be read: {_one_line(error)}'
        example = Example(lambda model: _forward(model, batch), f'the first batch of {loader}_dataloader')
        return example, example, ''

    @property
    def _edits(self) -> Edits:
        return Edits(self.structure.edits if self.structure else [])

    def named(self, groups: Sequence[Group]) -> list[Group]:
        """Groups of ``model`` by the names of ``dense``, whose layers may have other numbers."""
        return [replace(group, name=self._edits.dense_name(group.name)) for group in groups]

    def own_names(self, step: Structure) -> Structure:
        """A structure made from ``named`` Groups, by the names of ``model``, as ``compose`` needs it."""
        return replace(step, groups={str(self._edits.slim_name(name)): group for name, group in step.groups.items()})


def read_config(path: Path, options: Sequence[str] = ()) -> Config:
    """Reads a config and puts ``key=value`` options over it.

    Raises:
        UserError: the file is no config of a model, or an option names a key that does not exist.
    """
    cfg = load_config(path)
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'config {path} has no model = dict(...)')
    merge_texts(cfg, options)
    return cfg


def load_network(path: Path, options: Sequence[str], checkpoint: Path | None, seed: int, device: str) -> Network:
    """Builds the network of a config and gives it the weights of a checkpoint, or random ones.

    Raises:
        UserError: the config has a mistake, or the checkpoint is of another network; it names the tensors.
        CheckpointError: a file that cannot be read safely.
    """
    content = {} if checkpoint is None else load_checkpoint(checkpoint)  # first: it fails fastest
    state = weights_of(content, checkpoint) if checkpoint is not None else None
    cfg = read_config(path, options)
    if checkpoint is not None:
        note_image_norm(cfg, content, checkpoint)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    set_random_seed(seed)
    architecture, structure = _parts(cfg)
    dense = _build(architecture, path)
    data = checkpoint_structure(content)
    if data is not None:
        structure = Structure.from_dict(data, where=str(checkpoint))
    if state is None and hasattr(dense, 'init_weights'):
        with quiet():
            dense.init_weights()
    model = dense if structure is None else resize(dense, structure)
    if state is not None:
        problems = differences(model, state)
        if problems:
            raise UserError(
                f'checkpoint {checkpoint} is not one of {type(model).__name__} in {path}: {shorten(problems)}'
            )
        model.load_state_dict(state)
    return Network(cfg, model.to(device).eval(), dense.to(device).eval(), structure, content)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps MMEngine from logging a line for every tensor, as it does when it initialises or builds an optimizer."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        yield
    finally:
        logger.setLevel(level)


def _parts(cfg: Config) -> tuple[ConfigDict, Structure | None]:
    """The dense architecture that a config names and, where it is a slim one's, the structure."""
    from vadslim.hooks.slim_model import read_structure

    model = copy.deepcopy(cfg.model)
    structure = None
    if is_slim_config(cfg):
        model, structure = model.architecture, read_structure(model.structure)
    if 'data_preprocessor' not in model and cfg.get('data_preprocessor') is not None:
        model.data_preprocessor = copy.deepcopy(cfg.data_preprocessor)  # as the Runner does
    return without_pretrained(model), structure


def is_slim_config(cfg: Config) -> bool:
    """Whether a config builds a slim network by ``vadslim.SlimModel``."""
    return str(cfg.model.get('type')).rpartition('.')[2] == 'SlimModel'


def _build(architecture: ConfigDict, path: Path) -> nn.Module:
    try:
        return MODELS.build(architecture)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ImportError) as error:
        raise UserError(f'config {path}: its model cannot be built: {_one_line(error)}') from error


def _forward(model: nn.Module, batch: Any) -> Any:
    """One forward of an MMEngine model in mode 'tensor': the network without losses and decoding."""
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    if isinstance(data, Mapping):
        return model(**data, mode='tensor')
    return model(*data, mode='tensor') if isinstance(data, list | tuple) else model(data, mode='tensor')


def _first_batch(loader: Mapping[str, Any]) -> Any:
    loader = copy.deepcopy(dict(loader))
    for worker_option in ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout'):
        loader.pop(worker_option, None)
    loader['num_workers'] = 0
    return next(iter(Runner.build_dataloader(loader, seed=0)))


def _one_line(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
