"""StructureHook: every checkpoint tells its structure, and none is loaded into another one."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import CheckpointError
from ..registry import HOOKS
from .slim_model import checkpoint_structure
from .transfer import compare_architecture, shorten


@HOOKS.register_module()
class StructureHook(Hook):
    """Write the model's structure into every checkpoint; refuse a checkpoint whose tensors are not the
    model's.

    MMEngine loads non-strictly and only logs what did not fit. This compares the names and shapes of all
    tensors before any of them is copied, and tells what of declared differences there is.

    Order: with MMEngine's priorities it may stand anywhere; HIGH so that other hooks see a checkpoint that
        fits.

    Args:
        allow_missing: fnmatch patterns of tensors that a checkpoint may lack.
        allow_unexpected: fnmatch patterns of tensors that a checkpoint may have and the model not. One of another
            shape is left behind if it matches a pattern of each.
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
        transfer = compare_architecture(state, model)
        problems = transfer.problems(self.allow_missing, self.allow_unexpected)
        data = checkpoint_structure(checkpoint)
        if problems:
            source = getattr(runner, '_load_from', None)
            where = f'checkpoint {source}' if source else 'the checkpoint'
            kind = ' (slim)' if data else ''
            raise CheckpointError(f'{where}{kind} is not one of this {type(model).__name__}: {shorten(problems)}')
        if transfer.new or transfer.dropped or transfer.reshaped:
            runner.logger.info(f'{getattr(runner, "_load_from", None) or "checkpoint"}: {transfer}')
        for name in [name for name in state if name.removeprefix('module.') in transfer.reshaped]:
            del state[name]  # the loader would complain once more
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


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
