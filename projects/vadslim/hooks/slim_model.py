"""``vadslim.SlimModel``: build a network, slim it by a structure file, and hand it out as an ordinary
model.
"""

import copy
import os
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint import CheckpointError, load_checkpoint
from ..registry import MODELS


@MODELS.register_module()
def SlimModel(  # noqa: N802  written as a type in configs
    architecture: dict, structure: Any, data_preprocessor: dict | None = None
) -> nn.Module:
    """Build the dense network of ``architecture`` and keep of it what ``structure`` names.

    A function, not a wrapper: what comes back is the architecture's own class with smaller tensors, the names
    of its state_dict unchanged. It is initialised here, dense, because a module's ``init_weights`` knows only
    dense shapes; the Runner's call of ``init_weights`` then does nothing. Pretrained weights are never
    fetched.

    Args:
        architecture: the ``model`` of the dense config.
        structure: path of a ``structure.json`` or of a slim checkpoint, or what
            :meth:`~vadslim.pruning.Structure.to_dict` gives.
        data_preprocessor: the config's own top-level one, which MMEngine puts here.

    Raises:
        StructureError: the structure is not this architecture's.
        CheckpointError: a checkpoint that cannot be read, or has no structure.
    """
    from ..pruning import StructureError, resize

    architecture = without_pretrained(copy.deepcopy(architecture))
    if data_preprocessor is not None:
        architecture.setdefault('data_preprocessor', data_preprocessor)
    found = read_structure(structure)
    model = MODELS.build(architecture)
    if hasattr(model, 'init_weights'):
        model.init_weights()
    try:
        model = resize(model, found)
    except StructureError as error:
        where = structure if isinstance(structure, str | os.PathLike) else 'structure'
        raise StructureError(f'{where} is not one of {type(model).__name__} in this config: {error}') from error
    model.structure = found
    model.init_weights = _already_initialised
    return model


def read_structure(source: Any) -> Any:
    """Get a Structure from a ``structure.json``, a slim checkpoint, plain data, or a Structure."""
    from ..pruning import Structure

    if isinstance(source, Structure):
        return source
    if isinstance(source, dict):
        return Structure.from_dict(source)
    if Path(source).suffix == '.json':
        return Structure.load(source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f'structure: a path or a dict is needed, not a {type(source).__name__}')
    data = checkpoint_structure(load_checkpoint(source))
    if data is None:
        raise CheckpointError(f"{source}: has no meta['structure']; it is not a slim checkpoint")
    return Structure.from_dict(data, where=str(source))


def checkpoint_structure(checkpoint: dict) -> dict | None:
    """Get ``meta['structure']`` of a checkpoint as plain data, None for a dense one."""
    meta = checkpoint.get('meta')
    return meta.get('structure') if isinstance(meta, dict) else None


def without_pretrained(architecture: Any) -> Any:
    """Take ``pretrained`` and ``init_cfg`` of type Pretrained out of a model config, at any depth, in
    place.
    """
    if isinstance(architecture, list | tuple):
        kept = [without_pretrained(item) for item in architecture if not _is_pretrained(item)]
        return type(architecture)(kept)
    if not isinstance(architecture, dict):
        return architecture
    for key in list(architecture):
        if key == 'pretrained' or (key == 'init_cfg' and _is_pretrained(architecture[key])):
            architecture[key] = None
        else:
            architecture[key] = without_pretrained(architecture[key])
    return architecture


def _is_pretrained(item: Any) -> bool:
    return isinstance(item, dict) and str(item.get('type', '')).rpartition('.')[2] in (
        'Pretrained',
        'PretrainedInit',
    )


def _already_initialised() -> None:
    """Stand in for ``init_weights`` of a slim model: it was initialised when it was dense."""
