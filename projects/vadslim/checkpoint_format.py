"""The one format of a checkpoint: what stands at its top level, and how any other is read as one.

An MMEngine checkpoint (``state_dict``, ``optimizer``, ``param_schedulers``, ``message_hub``, ``meta``) has beside these

==============  ====================================================================================================
``version``     2; the predecessor wrote 1, a file that says nothing is of version 0
``epoch``       number of finished epochs, as ``meta['epoch']``: 1 after the first, where the predecessor wrote 0
``metric``      the best value so far of the validation's metric, None before there is one
``config``      what the run was configured with, as plain data: never Python text, nothing to be executed
``metadata``    ``stage`` (of a staged run; ``prune``, ``sparse`` of other commands; or None), ``timestamp`` (ISO
                8601), ``metric`` (the name of the metric), ``command`` (true where the stage is a command)
``timestamp``   the same as the metadata's
==============  ====================================================================================================

MMEngine passes over these keys when it loads or resumes.
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .checkpoint import CheckpointError, StrPath, load_checkpoint, save_checkpoint
from .old_layouts import stage_of_heads, stage_of_name

VERSION = 2
TIMES = ('%Y%m%d_%H%M%S', '%a %b %d %H:%M:%S %Y')  # of MMEngine, of mmcv 1


def label(
    epoch: int | None,
    config: Mapping[str, Any] | None = None,
    metric: float | None = None,
    metric_name: str | None = None,
    stage: str | None = None,
) -> dict[str, Any]:
    """Get the keys that a checkpoint written now has beside MMEngine's.

    Args:
        epoch: number of finished epochs.
        config: of the run; plain data is copied, of a config with objects None is kept.
        metric: the best value so far.
        metric_name: what it is of.
        stage: of a staged run; of a command that leaves other networks than it was given, that.
    """
    now = datetime.now().astimezone().isoformat(timespec='seconds')
    return {
        'version': VERSION,
        'epoch': epoch,
        'metric': _number(metric),
        'config': None if config is None else plain_config(config),
        'metadata': {'stage': stage, 'timestamp': now, 'metric': metric_name},
        'timestamp': now,
    }


def write_checkpoint(content: Mapping[str, Any], path: StrPath, **labels: Any) -> None:
    """Write a checkpoint in this format, whole or not at all: what no Runner writes is written by this.

    Args:
        content: ``state_dict``, ``meta`` and what else there is; ``meta['epoch']`` is the number of finished epochs.
        path: of the file.
        labels: of :func:`label`, but the epoch.

    Raises:
        CheckpointError: the folder is missing or not writable, or the disk is full.
    """
    epoch = content['meta'].get('epoch')  # of somebody else's file, if it was copied
    labelled = label(epoch if type(epoch) is int else None, **labels)
    labelled['metadata']['command'] = True  # a stage of a staged run may have the name of a command
    save_checkpoint({**content, **labelled}, path)


def load_any(path: StrPath) -> dict[str, Any]:
    """Read any checkpoint in this format: this project's, MMEngine's, mmcv 1's, the old layouts, a bare state dict.

    Returns:
        What the file holds, with all keys of the format: ``version`` 0 and None where it says nothing.

    Raises:
        CheckpointError: it cannot be read safely, or has no weights in any layout that is known.
    """
    content = load_checkpoint(path)
    state = content.get('state_dict')
    if not isinstance(state, Mapping) or not any(hasattr(value, 'shape') for value in state.values()):
        held = ', '.join(map(str, content)) or 'nothing'
        raise CheckpointError(
            f'{path}: no checkpoint in a layout that is known (state_dict, model_state_dict, model, '
            f'encoder_state_dict/decoder_state_dict, or tensors alone); it holds {held:.80}'
        )
    meta, hub, metadata = (_mapping(content.get(key)) for key in ('meta', 'message_hub', 'metadata'))
    version, epoch = content.get('version'), content.get('epoch', meta.get('epoch'))
    stage = metadata.get('stage')
    if 'stage' not in metadata and not meta:  # tensors alone
        stage = stage_of_name(str(path).replace('\\', '/').rpartition('/')[2]) or stage_of_heads(state)
    time = metadata.get('timestamp') or content.get('timestamp') or _iso(meta.get('time'))
    return {
        **content,
        'version': version if type(version) is int else 0,
        'epoch': epoch if type(epoch) is int else None,
        'metric': _number(content.get('metric', _mapping(hub.get('runtime_info')).get('best_score'))),
        'config': _readable_config(content),
        'metadata': {'metric': None, **metadata, 'stage': stage, 'timestamp': time},
        'timestamp': time,
    }


def held_config(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Get the config that a checkpoint holds as plain data, ours or as JSON text in ``meta``; None if there is none.

    Raises:
        ValueError: its text is not a JSON object.
    """
    config, meta = checkpoint.get('config'), checkpoint.get('meta')
    if isinstance(config, Mapping):
        return plain_config(config)
    text = meta.get('config_json') if isinstance(meta, Mapping) else None
    return config_from_text(text) if isinstance(text, str) else None


def _readable_config(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return held_config(checkpoint)
    except ValueError:  # a text that is no JSON
        return None


def plain_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Copy a config of dicts, lists, tuples, texts, numbers, booleans and None; None if it holds anything else."""
    try:
        return _plain(config)
    except (TypeError, RecursionError):
        return None


def config_from_text(text: str) -> dict[str, Any]:
    """Read a config as JSON, in which tuples and keys that are no text are tagged; nothing is executed or imported.

    Checkpoints of version 0 have it as ``meta['config_json']``.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        data = _decode(json.loads(text))
    except RecursionError:
        raise ValueError('nested too deeply') from None
    if not isinstance(data, dict):
        raise ValueError('not a JSON object')
    return data


def _plain(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {_plain(key): _plain(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_plain(value) for value in item]
    if isinstance(item, tuple):
        return tuple(_plain(value) for value in item)
    for kind in (bool, int, float, str):
        if isinstance(item, kind):
            return kind(item)
    if item is None:
        return None
    raise TypeError(f'{type(item).__name__} is no plain data')


def _decode(item: Any) -> Any:
    if isinstance(item, list):
        return [_decode(value) for value in item]
    if not isinstance(item, dict):
        return item
    if set(item) == {'__tuple__'}:
        return tuple(_decode(value) for value in item['__tuple__'])
    if set(item) == {'__pairs__'}:
        return {_decode(key): _decode(value) for key, value in item['__pairs__']}
    return {key: _decode(value) for key, value in item.items()}


def _number(value: Any) -> float | None:
    """A finite number, of NumPy or a tensor of one element too; None of anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _mapping(item: Any) -> Mapping[str, Any]:
    return item if isinstance(item, Mapping) else {}


def _iso(text: Any) -> str | None:
    for form in TIMES:
        try:
            return datetime.strptime(text, form).isoformat()
        except (TypeError, ValueError):
            continue
    return None
