"""The files of the pruning step: the smaller checkpoint and the config that runs it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from vadslim.analysis.pages import PAGE_FILES
from vadslim.checkpoint import atomic_write
from vadslim.checkpoint_format import held_config, write_checkpoint
from vadslim.hooks.transfer import differences
from vadslim.pruning import Structure, optimizer_param_names, slice_optimizer_state, slice_state_dict
from vadslim.slimming.network import Network, is_slim_config, quiet

SLIM, ZEROED, STRUCTURE, REPORT = (
    'vad_structured_pruned.pth',
    'vad_pruned.pth',
    'structure.json',
    'report.json',
)
STAGE = 'prune'  # what metadata says of networks that were made smaller
AVERAGED = 'module.'  # before the names of an averaged model's tensors
NUMBERING = ('optimizer', 'paramwise_cfg', 'constructor')  # what in an optim_wrapper decides which parameter is which


def output_names(config: Path) -> list[str]:
    """The names of all files that the pruning step may write for a config."""
    return [SLIM, ZEROED, STRUCTURE, REPORT, *PAGE_FILES, f'{config.stem}_slim.py', f'{config.stem}_dense.py']


def slim_checkpoint(
    network: Network, slim: nn.Module, step: Structure, structure: Structure
) -> tuple[dict[str, Any], list[str]]:
    """The checkpoint of a slim network, with all that can be kept of the original.

    Args:
        network: what was slimmed, with its checkpoint.
        slim: the result.
        step: what ``slim`` has left of ``network.model``.
        structure: what it has left of the dense network.

    Returns:
        The checkpoint, and a line for everything that could not be kept.
    """
    source = network.checkpoint
    meta = copy.deepcopy(dict(source.get('meta') or {}))
    meta['structure'] = structure.to_dict()
    state = {name: value.cpu() for name, value in slim.state_dict().items()}
    checkpoint: dict[str, Any] = {'meta': meta, 'state_dict': state}
    remarks = []
    for key in ('message_hub', 'param_schedulers'):
        if key in source:
            checkpoint[key] = source[key]
    if 'optimizer' in source:
        moments, remarks = _slim_moments(network, step, source['optimizer'])
        if moments is not None:
            checkpoint['optimizer'] = moments
    if 'ema_state_dict' in source:
        averaged = _slim_average(network, step, source['ema_state_dict'])
        if averaged is None:
            remarks.append('ema_state_dict dropped: it is of another network than state_dict')
        else:
            checkpoint['ema_state_dict'] = averaged
    return checkpoint, remarks


def write_slim(content: Mapping[str, Any], path: Path, network: Network) -> None:
    """Writes a checkpoint of what a network was made into, with the config that it was trained with, if that is known,
    else that which it was built of.
    """
    try:
        config = held_config(network.checkpoint)
    except ValueError:  # a text that is no JSON; nothing here needs it
        config = None
    write_checkpoint(content, path, config=config or network.cfg.to_dict(), stage=STAGE)


def _slim_average(network: Network, step: Structure, state: Any) -> dict[str, Any] | None:
    """The kept slices of what MMEngine's EMAHook stores, or None if they cannot be taken.

    These are the tensors of an averaged model, ``module.*``, with its number of ``steps``; the hook puts the averages
    into ``state_dict``, by which units are chosen, and the weights that it trains here.
    """
    if not isinstance(state, Mapping):
        return None
    weights = {name.removeprefix(AVERAGED): v for name, v in state.items() if name.startswith(AVERAGED)}
    if differences(network.model, weights):
        return None
    others = {name: value for name, value in state.items() if not name.startswith(AVERAGED)}
    return {**others, **{f'{AVERAGED}{name}': v for name, v in slice_state_dict(weights, step).items()}}


def _slim_moments(network: Network, step: Structure, state: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """The kept slices of the optimizer's moments, or None and why there are none."""
    settings = network.cfg.get('optim_wrapper')
    if settings is None:
        return None, ['optimizer state dropped: the config has no optim_wrapper to name its parameters by']
    if 'optimizer' in settings:  # any wrapper will do; one for mixed precision can only be built where it can train
        settings = {'type': 'OptimWrapper', **{key: settings[key] for key in NUMBERING if key in settings}}
    with quiet():
        wrapper = build_optim_wrapper(network.model, copy.deepcopy(settings))
    groups = getattr(getattr(wrapper, 'optimizer', None), 'param_groups', None)
    saved = state.get('param_groups') if isinstance(state, Mapping) else None
    if groups is None or saved is None:
        return None, ['optimizer state dropped: only that of a single optimizer is carried over']
    if [len(g['params']) for g in saved] != [len(g['params']) for g in groups]:
        return None, ['optimizer state dropped: it is for other parameter groups than the config makes']
    names = optimizer_param_names(network.model, wrapper.optimizer)
    shapes = {name: tuple(p.shape) for name, p in network.model.named_parameters()}
    return slice_optimizer_state(state, names, step, shapes)


def write_config(
    path: Path, source: Path, cfg: Config, changed: bool, lost: Sequence[str], checkpoint: str = SLIM
) -> list[Path]:
    """Writes the config that builds, trains and tests the slim network; it inherits the original one.

    Args:
        path: of the new config, beside the checkpoint and the structure file.
        source: of the original config.
        cfg: what it contains, with ``--cfg-options``.
        changed: there were such options; the new config then inherits a full copy that has them.
        lost: what the network has lost, for the header: units, and a line per edit.
        checkpoint: name of the slim network's, in the same folder.

    Returns:
        The other files that it needs.
    """
    base, others = source.resolve(), []
    if changed or cfg._is_lazy_import(str(base)):
        base = path.with_name(f'{source.stem}_dense.py')  # what was changed has to be in a file
        with atomic_write(base) as file:
            file.write(cfg.pretty_text)
        others.append(base)
    architecture = '_base_.model.architecture' if is_slim_config(cfg) else '_base_.model'
    imports = dict(cfg.get('custom_imports') or {'allow_failed_imports': False})
    edits = ''.join(f'\n{line}' for line in lost[1:]) + '\n' * bool(lost[1:])
    imports['imports'] = list(dict.fromkeys([*_listed(imports.get('imports')), 'vadslim.hooks']))
    with atomic_write(path) as file:
        file.write(
            f'''"""{source.name} without {lost[0]}; {STRUCTURE} says which.
{edits}
Test it with:   python tools/test.py {path.name} {checkpoint}
Train it with:  python tools/train.py {path.name}
"""

_base_ = [{os.path.relpath(base, path.parent.resolve())!r}]
custom_imports = {imports!r}
model = dict(
    _delete_=True,
    type='vadslim.SlimModel',
    architecture={{{{{architecture}}}}},
    structure='{{{{ fileDirname }}}}/{STRUCTURE}',
)
load_from = '{{{{ fileDirname }}}}/{checkpoint}'
'''
        )
    return others


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])
