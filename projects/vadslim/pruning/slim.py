"""Slimming: from a dense model and a structure to the slim model, and the same for a state_dict."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .attention import SlimMultiheadAttention, slim_attention
from .edits import EditError, Edits
from .group import first_names, read_attr, tensors_of, write_attr
from .kinds import ByKind, Kind
from .structure import Structure, StructureError, read_edits

Follower = Callable[[Any], None]
_FOLLOWERS: ByKind[Follower] = ByKind()


def follows_tensors(kind: Kind) -> Callable[[Follower], Follower]:
    """Register a function that sets the width numbers of a module from its (already cut) tensors.

    It is called on each module that lost positions or got a new attribute, and on all modules around it, inner
    ones first; the nearest class in the MRO wins. Stock layers are registered here. ``kind`` as in ``declares_groups``.
    """

    def register(follower: Follower) -> Follower:
        _FOLLOWERS.register(kind, follower)
        return follower

    return register


def cut(tensor: torch.Tensor, dims: Mapping[int, list[int]]) -> torch.Tensor:
    """The kept positions of a tensor: new memory, same dtype, device and memory format."""
    result = tensor.detach()
    for dim, kept in dims.items():
        result = result.index_select(dim, torch.as_tensor(kept, dtype=torch.long, device=tensor.device))
    if result.data_ptr() == tensor.data_ptr():
        result = result.clone()
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    if channels_last and not tensor.is_contiguous():
        result = result.contiguous(memory_format=torch.channels_last)
    return result


def like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` as a parameter or buffer, whichever ``tensor`` is, with its requires_grad and attributes."""
    if not isinstance(tensor, nn.Parameter):
        return value
    result = nn.Parameter(value, requires_grad=tensor.requires_grad)
    result.__dict__.update(tensor.__dict__)
    return result


def copy_with(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A deep copy in which some tensors (by first name) are replaced, wherever they are referred to."""
    old = tensors_of(model)
    memo: dict[int, Any] = {id(old[name]): like(old[name], value) for name, value in tensors.items()}
    return copy.deepcopy(model, memo)


def resize(model: nn.Module, structure: Structure) -> nn.Module:
    """The slim copy of a dense model.

    Every tensor of the result is new; ``model`` is untouched. Mode, requires_grad, tied parameters, devices,
    dtypes and hooks are kept; gradients are not. Positions are taken from the tensors' values, so a trained
    dense model gives a trained slim one, and a model with the weights still to come gives the right shapes.

    Raises:
        StructureError: The structure belongs to another architecture.
    """
    edits = read_edits(structure.edits)
    _check_architecture(model, structure, edits)
    first, tensors = first_names(model), tensors_of(model)
    changed = dict.fromkeys([*structure.tensors, *edits.resamplings])
    new = {
        name: edits.resample(name, cut(tensors[name], structure.tensors.get(name, {})))
        for name in changed
        if first[name] == name
    }
    slim = copy_with(model, new)
    for path, value in structure.attrs.items():
        write_attr(slim, path, value)
    edits.write_numbers(slim)
    _follow(slim, changed, [*structure.attrs, *edits.numbers])
    edits.shorten(slim)  # last: names are the dense network's up to here
    return slim


def _check_architecture(model: nn.Module, structure: Structure, edits: Edits) -> None:
    first, tensors = first_names(model), tensors_of(model)
    wrong = []
    for name, shape in structure.shapes.items():
        here = tuple(tensors[first[name]].shape) if name in first else None
        if here != shape:
            wrong.append(f'{name} is {here if here else "missing"}, the structure was made for {shape}')
    for name, dims in structure.tensors.items():
        if first.get(name, name) != name and structure.tensors.get(first[name]) != dims:
            wrong.append(f'{name} is tied to {first[name]}, the structure cuts them differently')
    if wrong:
        more = f' (and {len(wrong) - 10} more)' if len(wrong) > 10 else ''
        raise StructureError('the model is not the dense one of this structure: ' + '; '.join(wrong[:10]) + more)
    for path in structure.attrs:
        try:
            value = read_attr(model, path)
        except (AttributeError, LookupError, TypeError, ValueError):
            raise StructureError(f'the model has no attribute {path}, which the structure sets') from None
        if type(value) is not int:
            raise StructureError(f'attribute {path} of the model is no integer, the structure sets one')
    try:
        edits.check(model)
    except EditError as error:
        raise StructureError(f'the model is not the dense one of this structure: {error}') from None


def _follow(slim: nn.Module, tensors: Iterable[str], attrs: Iterable[str]) -> None:
    """Set the numbers that follow from the tensors, children before parents."""
    touched = {name.rpartition('.')[0] for name in tensors}
    for path in attrs:
        parts = path.split('.')
        touched |= {'.'.join(parts[:count]) for count in (len(parts) - 1, len(parts) - 2) if count > 0}
    for name in list(touched):
        while name:
            name = name.rpartition('.')[0]
            touched.add(name)
    for name, module in reversed(list(slim.named_modules())):
        if name not in touched:
            continue
        follower = _FOLLOWERS.of(module)
        try:
            if follower is not None:
                follower(module)
        except ValueError as error:
            raise StructureError(f'{name}: {error}') from None


def slice_state_dict(state: Mapping[str, Any], structure: Structure) -> OrderedDict[str, Any]:
    """The kept positions of a dense state_dict; entries that the structure does not name are passed on.

    Edits rename or drop the entries of layers, and resample tensors over a grid.

    Raises:
        StructureError: An entry has another shape than the structure was made for, or none of its tensors is
            there.
    """
    edits = read_edits(structure.edits)
    try:
        edits.check_state(state)
    except EditError as error:
        raise StructureError(f'the state is not one of the dense network: {error}') from None
    if structure.tensors and not any(name in state for name in structure.tensors):
        raise StructureError(
            f'the state has none of the tensors of the structure, such as {next(iter(structure.tensors))}'
        )
    result: OrderedDict[str, Any] = OrderedDict()
    done: dict[tuple[int, str], torch.Tensor] = {}
    for name, value in state.items():
        new_name = edits.slim_name(name)
        if new_name is None:
            continue
        if name not in structure.tensors and name not in edits.resamplings:
            result[new_name] = value
            continue
        if name in structure.shapes and tuple(value.shape) != structure.shapes[name]:
            raise StructureError(
                f'{name} is {tuple(value.shape)}, the structure was made for {structure.shapes[name]} '
                f'and leaves {structure.slim_shape(name)}'
            )
        dims = structure.tensors.get(name, {})
        key = (value.data_ptr(), f'{dims} {edits.resamplings.get(name)}') if value.numel() else (0, name)
        if key not in done:
            done[key] = edits.resample(name, cut(value, dims))
        result[new_name] = done[key]
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:  # versions of modules by their names
        named = ((edits.slim_name(name), value) for name, value in metadata.items())
        result._metadata = OrderedDict((name, value) for name, value in named if name is not None)  # type: ignore[attr-defined]
    return result


@follows_tensors(nn.Linear)
def _linear(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@follows_tensors(nn.modules.conv._ConvNd)
def _conv(module: nn.modules.conv._ConvNd) -> None:
    outer, inner = module.weight.shape[0], module.weight.shape[1] * module.groups
    module.out_channels, module.in_channels = (inner, outer) if module.transposed else (outer, inner)
    if module.out_channels % module.groups or module.in_channels % module.groups:
        raise ValueError(f'{module.in_channels} and {module.out_channels} channels in {module.groups} groups')


@follows_tensors(nn.modules.batchnorm._NormBase)
def _batch_or_instance_norm(module: nn.modules.batchnorm._NormBase) -> None:
    tensor = module.weight if module.weight is not None else module.running_mean
    if tensor is not None:
        module.num_features = int(tensor.shape[0])


@follows_tensors(nn.LayerNorm)
def _layer_norm(module: nn.LayerNorm) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


@follows_tensors(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm) -> None:
    if module.weight is not None:
        module.num_channels = int(module.weight.shape[0])
    if module.num_channels % module.num_groups:
        raise ValueError(f'{module.num_channels} channels in {module.num_groups} groups')


@follows_tensors(nn.Embedding)
def _embedding(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@follows_tensors(nn.PReLU)
def _prelu(module: nn.PReLU) -> None:
    module.num_parameters = module.weight.numel()


@follows_tensors(nn.MultiheadAttention)
def _attention(module: nn.MultiheadAttention) -> None:
    slim_attention(module)


@follows_tensors(nn.TransformerEncoder)
def _encoder(module: nn.TransformerEncoder) -> None:
    # nested tensors work on PyTorch's fused layers only, which slim attention is not
    if any(isinstance(part, SlimMultiheadAttention) for part in module.modules()):
        module.use_nested_tensor = False
