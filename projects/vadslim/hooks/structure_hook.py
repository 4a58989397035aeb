"""StructureHook: every checkpoint tells its structure, and none is loaded into another one."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import CheckpointError
from ..registry import HOOKS
from .slim_model import checkpoint_structure

SHOWN = 10


@HOOKS.register_module()
class StructureHook(Hook):
    """Write the model's structure into every checkpoint; refuse a checkpoint whose tensors are not the
    model's.

    MMEngine loads non-strictly and only logs what did not fit. This compares the names and shapes of all
    tensors before any of them is copied.

    Order: with MMEngine's priorities it may stand anywhere; HIGH so that other hooks see a checkpoint that
        fits.

    Args:
        allow_missing: fnmatch patterns of tensors that a checkpoint may lack.
        allow_unexpected: fnmatch patterns of tensors that a checkpoint may have and the model not.
    """

    priority = 'HIGH'

    def __init__(self, allow_missing: Sequence[str] = (), allow_unexpected: Sequence[str] = ()) -> None:
        for name, patterns in (('allow_missing', allow_missing), ('allow_unexpected', allow_unexpected)):
            if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
                raise TypeError(f'{name}: a list of patterns is needed, got {patterns!r}')
        self.allow_missing = tuple(allow_missing)
        self.allow_unexpected = tuple(allow_unexpected)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write ``meta['structure']``; a dense model has none."""
        structure = getattr(_unwrapped(runner.model), 'structure', None)
        if structure is not None:
            checkpoint['meta']['structure'] = structure.to_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model.

        Raises:
            CheckpointError: names the first tensors that differ.
        """
        model = _unwrapped(runner.model)
        state = checkpoint.get('state_dict', checkpoint)
        problems = differences(model, state, self.allow_missing, self.allow_unexpected)
        data = checkpoint_structure(checkpoint)
        if problems:
            source = getattr(runner, '_load_from', None)
            where = f'checkpoint {source}' if source else 'the checkpoint'
            kind = ' (slim)' if data else ''
            raise CheckpointError(f'{where}{kind} is not one of this {type(model).__name__}: {shorten(problems)}')
        own = getattr(model, 'structure', None)
        if data is None or own is None:
            return
        mine, theirs = own.to_dict(), type(own).from_dict(data, where="meta['structure']").to_dict()
        if mine['tensors'] != theirs['tensors']:
            one, other = mine['tensors'], theirs['tensors']
            name = next(name for name in {**one, **other} if one.get(name) != other.get(name))
            raise CheckpointError(f'the checkpoint kept other units of {name} than the structure of this model')
        if mine['edits'] != theirs['edits']:
            raise CheckpointError('the checkpoint kept other layers, or another grid, than the structure of this model')


def differences(
    model: nn.Module,
    state: Mapping[str, Any],
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> list[str]:
    """Compare a state dict with a model's, name by name.

    Returns:
        One short text per tensor that is missing, unexpected or of another shape.
    """
    theirs = {name.removeprefix('module.'): value for name, value in state.items() if hasattr(value, 'shape')}
    mine = model.state_dict()
    problems = []
    for name, tensor in mine.items():
        if name not in theirs:
            if not _matches(name, allow_missing):
                problems.append(f'{name} is missing')
        elif theirs[name].shape != tensor.shape:
            problems.append(f'{name} is {tuple(theirs[name].shape)}, the model has {tuple(tensor.shape)}')
    problems += [
        f'{name} is not in the model' for name in theirs if name not in mine and not _matches(name, allow_unexpected)
    ]
    return problems


def shorten(problems: Sequence[str]) -> str:
    """The first of what :func:`differences` found, on one line."""
    more = f' and {len(problems) - SHOWN} more' if len(problems) > SHOWN else ''
    return '; '.join(problems[:SHOWN]) + more


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
