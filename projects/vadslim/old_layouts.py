"""Checkpoints of the predecessor and of plain PyTorch scripts, told apart by their keys and read as this project's.

Read, never written:

* the checkpoint manager's: ``version`` 1, ``epoch``, ``model_state_dict``, ``optimizer_state_dict``,
  ``scheduler_state_dict``, ``metric``, ``config``, ``metadata``, ``timestamp``;
* train_structural.py's: no version, ``loss`` and a flat config ``{embed_dim, num_layers, mask_ratio}``;
* train_dense.py's ``{epoch, model_state_dict, optimizer_state_dict, loss}``;
* the short form ``{model, optimizer, scheduler, config}``;
* ``encoder_state_dict`` and ``decoder_state_dict``, one or both.

Pure: from what a file holds to a new dict, no file is opened here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

SECTIONS = ('model', 'training', 'data', 'logging', 'device', 'stages')
TRAINING = ('mask_ratio', 'mask_strategy')  # of a flat config: what belongs to the section training
HALVES = ('encoder', 'decoder')
# what the keys of an old layout become; the rest of a file is kept as it is
_READ = {
    *('model_state_dict', 'optimizer_state_dict', 'scheduler_state_dict'),
    *('model', 'optimizer', 'scheduler', 'loss'),
    *(f'{half}_state_dict' for half in HALVES),
}


def from_old_layout(content: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Map an old layout to the format of :mod:`vadslim.checkpoint_format`.

    Args:
        content: what the file holds.
        name: of the file, which may tell the stage.

    Returns:
        A new dict; ``version`` is 0 where the file has none, ``epoch`` the number of finished epochs (the old ones are
        counted from 0), ``metric`` the old ``metric`` or ``loss``, a flat config becomes sections. ``metadata`` also
        says the ``layout``, and in ``notes`` what could not be taken. None if the layout is none of these.
    """
    weights, layout = _weights(content)
    if weights is None:
        return None
    weights = names_of_today(weights)
    metadata = content.get('metadata')
    metadata = dict(metadata) if isinstance(metadata, Mapping) else {}
    metric = next((content[key] for key in ('metric', 'loss') if key in content), None)
    epoch = content.get('epoch')
    epoch = epoch + 1 if type(epoch) is int and epoch >= 0 else None
    optimizer = content.get('optimizer_state_dict', content.get('optimizer'))
    scheduler = content.get('scheduler_state_dict', content.get('scheduler'))
    notes, meta, steps = [], {}, None
    read = {'state_dict': weights, 'version': content['version'] if type(content.get('version')) is int else 0}
    if isinstance(optimizer, Mapping) and {'state', 'param_groups'} <= set(optimizer):
        read['optimizer'], steps = dict(optimizer), _steps(optimizer)
    elif optimizer is not None:
        notes.append('its optimizer state is not one of torch.optim: skipped')
    if isinstance(scheduler, Mapping):
        kind = scheduler_kind(scheduler)
        notes.append(f'the state of its scheduler ({kind} of torch.optim) does not fit those of MMEngine: skipped')
    if epoch is not None:
        meta['epoch'] = epoch
        if steps is not None:  # then a run can be resumed, which takes a message hub
            meta['iter'] = steps
            read['message_hub'] = {'log_scalars': {}, 'runtime_info': {}, 'resumed_keys': {}}
    stage = metadata.get('stage')
    stage = stage if isinstance(stage, str) else stage_of_name(name) or stage_of_heads(weights)
    if stage is None and layout != 'model':
        stage = 'structural'
    config = _config(content.get('config'), stage, scheduler)
    metadata |= {
        'stage': stage,
        'timestamp': content.get('timestamp', metadata.get('timestamp')),
        'metric': metadata.get('metric', 'loss' if metric is not None else None),
        'layout': layout,
        'notes': notes,
    }
    read |= {'meta': meta, 'epoch': epoch, 'metric': metric, 'config': config}
    others = {key: value for key, value in content.items() if key not in _READ}
    return {**others, **read, 'metadata': metadata, 'timestamp': metadata['timestamp']}


def names_of_today(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Give the tensors of a network of the predecessor, which has a head ``skeleton``, the names that they have today.

    The key points' head was called ``junction``; in a file of two halves the heads are the decoder's.
    """
    names = {name: name for name in weights}
    if 'skeleton' in _words(weights):
        for name in filter(lambda name: isinstance(name, str), weights):
            today = re.sub(r'(?<![^._])junctions?(?![^._])', 'keypoints', name)
            names[name] = re.sub(r'^decoder\.(?=heads\.)', '', today)
    if len(set(names.values())) < len(weights):  # it has both
        return dict(weights)
    return {names[name]: value for name, value in weights.items()}


def outside_of_halves(checkpoint: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those of a network's tensors that a checkpoint cannot have, as it is a file of the encoder or the decoder alone.

    They count as declared where a training starts from such a file.
    """
    metadata, state = checkpoint.get('metadata'), checkpoint.get('state_dict')
    if not (is_old_layout(checkpoint) and isinstance(metadata, Mapping) and metadata['layout'] == 'pair'):
        return []
    held = {str(name).partition('.')[0] for name in state} if isinstance(state, Mapping) else set()
    return [name for name in names if name.partition('.')[0] not in held]


def is_old_layout(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was read from a file in an old layout."""
    metadata = checkpoint.get('metadata')
    return isinstance(metadata, Mapping) and isinstance(metadata.get('layout'), str)


def notes_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """What could not be taken from a file in an old layout, one line each."""
    metadata = checkpoint.get('metadata')
    notes = metadata.get('notes') if isinstance(metadata, Mapping) else None
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def stage_of_name(name: str) -> str | None:
    """'structural' or 'dense' if a file's name says one of them."""
    said = [stage for stage in ('structural', 'dense') if stage in name.lower()]
    return said[0] if len(said) == 1 else None


def stage_of_heads(weights: Mapping[str, Any]) -> str | None:
    """The stage by the heads that a network of the predecessor has; None of any other network.

    The dense stage has heads for width, offset and key points (once: junctions), the structural one the skeleton alone.
    """
    words = _words(weights)
    if words & {'width', 'offset', 'keypoint', 'keypoints', 'junction', 'junctions'}:
        return 'dense'
    return 'structural' if 'skeleton' in words else None


def _words(weights: Mapping[str, Any]) -> set[str]:
    return {word for name in weights for word in re.split(r'[._\d]+', str(name).lower())}


def scheduler_kind(state: Mapping[str, Any]) -> str:
    """Which of torch's schedulers a state is of, by its keys."""
    kinds = {'T_max': 'CosineAnnealingLR', 'total_steps': 'OneCycleLR', 'milestones': 'MultiStepLR'}
    return next((kind for key, kind in kinds.items() if key in state), 'a scheduler')


def _weights(content: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The tensors by name, and a name of the layout; None if there are none."""
    if isinstance(content.get('state_dict'), Mapping):
        return None, 'MMEngine'
    halves = {half: content.get(f'{half}_state_dict') for half in HALVES}
    for key in ('model_state_dict', 'model'):
        if _is_state(content.get(key)):
            if key == 'model':
                return dict(content[key]), key
            if 'version' in content:
                return dict(content[key]), 'version 1'
            return dict(content[key]), f'train_{"structural" if "config" in content else "dense"}.py'
    present = {half: state for half, state in halves.items() if state is not None}
    if not present or not all(_is_state(state) for state in present.values()):
        return None, 'unknown'
    return {f'{half}.{name}': value for half, state in present.items() for name, value in state.items()}, 'pair'


def _is_state(item: Any) -> bool:
    return isinstance(item, Mapping) and bool(item) and all(hasattr(value, 'shape') for value in item.values())


def _steps(optimizer: Mapping[str, Any]) -> int | None:
    """How many iterations an Adam has seen."""
    states = optimizer['state'].values() if isinstance(optimizer['state'], Mapping) else ()
    steps = [state['step'] for state in states if isinstance(state, Mapping) and 'step' in state]
    try:
        return max((int(step) for step in steps), default=None)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # no number, no finite one, a tensor of several
        return None


def _config(config: Any, stage: str | None, scheduler: Any) -> dict[str, Any] | None:
    """A config in sections; a flat one is of the model, but for what the section training has today. The script that
    wrote it had no other network than the structural one, and said in no config what its scheduler was.
    """
    if not isinstance(config, Mapping):
        return None
    if not config or any(key in SECTIONS for key in config):
        return dict(config)
    training = {key: config[key] for key in TRAINING if key in config}
    model = {key: value for key, value in config.items() if key not in TRAINING}
    if stage == 'structural' and 'embed_dim' in model:
        model.setdefault('full_heads', False)
        if isinstance(scheduler, Mapping) and 'T_max' in scheduler:
            training['scheduler'] = 'cosine'
    return {'model': model, **({'training': training} if training else {})}
