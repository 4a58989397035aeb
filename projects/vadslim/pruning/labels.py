"""Following channels through the operations of a traced graph.

An operation's rule takes the labels of its inputs (see ``elements.py``) to the label of its output, and unites the
elements that have to leave together. What a rule cannot follow is marked, never guessed: the units that reach it are
protected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .elements import Channels, Elements, Label, Shape, Stored


@dataclass
class Op:
    """One operation as its rule sees it.

    Args:
        name: Autograd's name without 'Backward0', such as 'Add'.
        node: The autograd node (its ``_saved_*`` attributes).
        output: Which output of the operation is asked for.
        shape: Shape of that output.
        inputs: (label, shape) per input; shape None for an input that autograd does not know (a constant).
        literal: The sizes of this split stand in the code.
        constants: Shapes of the arguments that autograd does not know; None when they are not known here either.
        elements: Where elements are united and marked.
    """

    name: str
    node: Any
    output: int
    shape: Shape
    inputs: list[tuple[Label, Shape | None]]
    literal: bool
    constants: Sequence[Shape] | None
    elements: Elements = field(repr=False)

    def saved_dims(self, attribute: str = '_saved_dim', ndim: int | None = None) -> list[int]:
        """Saved dims counted from the front (autograd keeps -1 as 2**64 - 1)."""
        value = getattr(self.node, attribute)
        count = len(self.first_shape) if ndim is None else ndim
        dims = [value] if isinstance(value, int) else list(value)
        signed = [dim - 2**64 if dim >= 2**63 else dim for dim in dims]
        return [dim + count if dim < 0 else dim for dim in signed]

    @property
    def first_shape(self) -> Shape:
        shape = self.inputs[0][1]
        assert shape is not None
        return shape

    def lose(self, why: str) -> Label:
        """Mark everything that comes in."""
        for label, _ in self.inputs:
            self.elements.mark_label(label, why)
        return None

    def stored(self, label: Stored, shape: Shape, dim: int) -> np.ndarray | None:
        """The elements of a parameter's dim that the tensor's ``dim`` shows."""
        own = label.dims[dim]
        return None if own is None else self.elements.space(label.name, own, shape[dim])


Rule = Callable[[Op, Channels], Label]
RULES: dict[str, Callable[[Op], Label]] = {}


def _rule(names: str) -> Callable[[Callable[[Op], Label]], Callable[[Op], Label]]:
    """Register a rule for operations, named with blanks between them."""

    def register(rule: Callable[[Op], Label]) -> Callable[[Op], Label]:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return register


def _follow(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations on one tensor; it is called when that tensor has channels."""

    def register(rule: Rule) -> Rule:
        def on_first(op: Op) -> Label:
            label = op.inputs[0][0]
            return rule(op, label) if isinstance(label, Channels) else None

        _rule(names)(on_first)
        return rule

    return register


def apply_rule(op: Op) -> Label:
    """The label of an operation's output."""
    if not any(isinstance(label, Channels | Stored) for label, _ in op.inputs):
        return None
    rule = RULES.get(op.name)
    if rule is None:
        return op.lose(f'reaches the operation {op.name}, which is not followed')
    result = rule(op)
    if result is None:
        for label, _ in op.inputs:
            if isinstance(label, Stored):
                op.elements.mark_label(label, f'is used in {op.name}')
    return result


ELEMENTWISE = """
    Abs Alias Celu Clamp Clone Contiguous Copy Cos Elu Erf Exp Gelu Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu
    Log Log1P LogSigmoid MaskedFill Mish NativeDropout Neg Pow Reciprocal Relu Rsqrt Sigmoid Sign Silu Sin Softplus Sqrt
    Square Tanh Threshold ToCopy
"""
SPATIAL = """
    AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D AvgPool2D AvgPool3D MaxPool2DWithIndices
    MaxPool3DWithIndices ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D
    ReplicationPad3D UpsampleBicubic2D UpsampleBilinear2D UpsampleLinear1D UpsampleNearest1D UpsampleNearest2D
    UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D UpsampleTrilinear3D
"""


@_rule(ELEMENTWISE)
def _elementwise(op: Op) -> Label:
    label = op.inputs[0][0]
    if isinstance(label, Stored) and len(op.inputs) == 1:
        return label
    return _broadcast(op)


@_rule('Add Addcdiv Addcmul Div Lerp Maximum Minimum Mul Rsub Sub Where')
def _broadcast(op: Op) -> Label:
    ndim = len(op.shape)
    carriers = []
    for label, shape in op.inputs:
        if isinstance(label, Channels) and shape is not None and shape[label.dim] > 1:
            carriers.append(Channels(label.dim + ndim - len(shape), label.ids))
    carriers = carriers or list(_vectors(op))
    if not carriers:
        return None
    dim, ids = carriers[0].dim, carriers[0].ids
    if any(carrier.dim != dim for carrier in carriers):
        return op.lose(f'meets other channels along another dim in {op.name}')
    for carrier in carriers[1:]:
        op.elements.unite(ids, carrier.ids)
    for label, shape in op.inputs:
        if isinstance(label, Channels) or shape is None:
            continue
        own = dim - ndim + len(shape)
        if own < 0 or shape[own] == 1:
            continue
        elements = op.stored(label, shape, own) if isinstance(label, Stored) else None
        if elements is None:
            elements = np.full(len(ids), -1)
        op.elements.unite(ids, elements)
    if op.constants is None and any(shape is None for _, shape in op.inputs):
        op.elements.mark(ids, f'may be combined with a constant in {op.name}')
    for shape in op.constants or ():
        if -len(shape) <= dim - ndim and shape[dim - ndim] > 1:
            op.elements.mark(ids, f'is combined with a constant of shape {shape} in {op.name}')
    return Channels(dim, ids)


def _vectors(op: Op) -> Iterator[Channels]:
    """Parameters and buffers of one number per channel, such as those of a frozen norm that is written by hand."""
    for label, shape in op.inputs:
        wide = [dim for dim, size in enumerate(shape or ()) if size > 1]
        if isinstance(label, Stored) and shape is not None and len(wide) == 1:
            ids = op.stored(label, shape, wide[0])
            if ids is not None:
                yield Channels(wide[0] + len(op.shape) - len(shape), ids)


@_follow(SPATIAL)
def _spatial(op: Op, label: Channels) -> Label:
    spatial = next(int(number) for number in '123' if f'{number}D' in op.name)
    if label.dim >= len(op.shape) - spatial:
        return op.lose(f'is resampled along its channels in {op.name}')
    return label


@_rule('GridSampler2D GridSampler3D')
def _grid_sample(op: Op) -> Label:
    label = op.inputs[0][0]
    if any(isinstance(other, Channels) for other, _ in op.inputs[1:]) or not isinstance(label, Channels):
        return op.lose('is used as sampling positions')
    return label if label.dim == 1 else op.lose('is sampled along its channels')


@_follow('Amax Amin Mean Std Sum Var LinalgVectorNorm Norm')
def _reduce(op: Op, label: Channels) -> Label:
    dims = op.saved_dims() if getattr(op.node, '_saved_dim', None) is not None else []
    if not dims or label.dim in dims:
        return op.lose(f'is reduced over its channels in {op.name}')
    kept = len(op.shape) == len(op.first_shape)
    return Channels(label.dim - (0 if kept else sum(dim < label.dim for dim in dims)), label.ids)


@_follow('Softmax LogSoftmax Cumsum')
def _along(op: Op, label: Channels) -> Label:
    if label.dim in op.saved_dims():
        return op.lose(f'goes through {op.name} along its channels')
    return label


@_follow('Flip Roll')
def _move(op: Op, label: Channels) -> Label:
    dims = op.saved_dims('_saved_dims')
    return op.lose(f'changes places in {op.name}') if not dims or label.dim in dims else label


@_follow('PixelShuffle')
def _pixel_shuffle(op: Op, label: Channels) -> Label:
    """A channel is made of ``factor ** 2`` neighbours, which leave together."""
    if label.dim != len(op.shape) - 3:
        return op.lose('is resampled along its channels in PixelShuffle')
    parts = label.ids.reshape(-1, op.node._saved_upscale_factor**2)
    for others in parts.T[1:]:
        op.elements.unite(parts[:, 0], others)
    return Channels(label.dim, parts[:, 0])


@_follow('PixelUnshuffle')
def _pixel_unshuffle(op: Op, label: Channels) -> Label:
    if label.dim != len(op.shape) - 3:
        return op.lose('is resampled along its channels in PixelUnshuffle')
    return Channels(label.dim, label.ids.repeat(op.node._saved_downscale_factor**2))


@_follow('Permute')
def _permute(op: Op, label: Channels) -> Label:
    return Channels(op.saved_dims('_saved_dims').index(label.dim), label.ids)


@_follow('Transpose')
def _transpose(op: Op, label: Channels) -> Label:
    one, other = (op.saved_dims(f'_saved_dim{number}')[0] for number in (0, 1))
    return Channels({one: other, other: one}.get(label.dim, label.dim), label.ids)


@_follow('T')
def _matrix_transpose(op: Op, label: Channels) -> Label:
    return Channels(1 - label.dim, label.ids)


@_rule('Expand')
def _expand(op: Op) -> Label:
    label, shape = op.inputs[0][0], op.first_shape
    more = len(op.shape) - len(shape)
    if isinstance(label, Stored):
        sizes = zip(label.dims, shape, op.shape[more:])
        same = tuple(own if old == new else None for own, old, new in sizes)
        return Stored(label.name, (None,) * more + same, label.shape)
    if isinstance(label, Channels):
        return Channels(label.dim + more, label.ids) if shape[label.dim] > 1 else None
    return None


@_rule('View UnsafeView ReshapeAlias Unsqueeze Squeeze')
def _view(op: Op) -> Label:
    """Whole dims move, or merge with their neighbours; the channel dim is never cut."""
    label, old, new = op.inputs[0][0], op.first_shape, op.shape
    if isinstance(label, Stored):
        if [size for size in old if size > 1] != [size for size in new if size > 1]:
            return None
        wide = iter([own for own, size in zip(label.dims, old) if size > 1])
        return Stored(label.name, tuple(next(wide) if size > 1 else None for size in new), label.shape)
    if not isinstance(label, Channels):
        return None
    dim = label.dim
    for k in range(len(new)):
        before = math.prod(new[:k])
        for first in range(dim + 1):
            if math.prod(old[:first]) != before:
                continue
            for last in range(dim, len(old)):
                if math.prod(old[first : last + 1]) != new[k] or (old[dim] == 1 and new[k] != 1):
                    continue
                aligned = [1] * (last + 1 - first)
                aligned[dim - first] = old[dim]
                return Channels(k, np.broadcast_to(label.ids.reshape(aligned), old[first : last + 1]).reshape(-1))
    return op.lose(f'is cut by a reshape from {old} to {new}')


@_follow('Split SplitWithSizes UnsafeSplit')
def _split(op: Op, label: Channels) -> Label:
    if op.saved_dims()[0] != label.dim:
        return label
    total = len(label.ids)
    if op.name == 'SplitWithSizes':
        sizes = list(op.node._saved_split_sizes)
    else:
        step = int(op.node._saved_split_size)
        sizes = [min(step, total - start) for start in range(0, total, step)]
    return Channels(label.dim, _alike(op, np.split(label.ids, np.cumsum(sizes)[:-1]))[op.output])


@_follow('Glu')
def _glu(op: Op, label: Channels) -> Label:
    if op.saved_dims()[0] != label.dim:
        return label
    return Channels(label.dim, _alike(op, np.split(label.ids, 2))[0])


def _alike(op: Op, parts: list[np.ndarray]) -> list[np.ndarray]:
    """Parts that the code makes equally wide stay so: their first units leave together, and so on."""
    sizes = [len(part) for part in parts]
    if op.literal:
        op.lose(f'is split into {sizes} channels, numbers that stand in the code')
    elif len(set(sizes)) > 1:
        op.lose(f'is cut into parts of {sizes} channels')
    else:
        for part in parts[1:]:
            op.elements.unite(parts[0], part)
    return parts


@_rule('Slice')
def _slice(op: Op) -> Label:
    label, dim = op.inputs[0][0], op.saved_dims()[0]
    cut = op.shape[dim] != op.first_shape[dim]
    reason = 'is sliced by numbers that stand in the code'
    if isinstance(label, Stored) and cut:
        elements = op.stored(label, op.first_shape, dim)
        if elements is not None:
            op.elements.mark(elements, reason)
        return Stored(label.name, (*label.dims[:dim], None, *label.dims[dim + 1 :]), label.shape)
    return op.lose(reason) if isinstance(label, Channels) and label.dim == dim and cut else label


@_follow('Select Unbind')
def _select(op: Op, label: Channels) -> Label:
    dim = op.saved_dims()[0]
    if dim == label.dim:
        return op.lose(f'is taken apart channel by channel in {op.name}')
    return Channels(label.dim - (dim < label.dim), label.ids)


@_follow('ConstantPadNd')
def _pad(op: Op, label: Channels) -> Label:
    pads = [pad - 2**64 if pad >= 2**63 else pad for pad in op.node._saved_pad]
    from_end = len(op.shape) - 1 - label.dim
    if 2 * from_end >= len(pads):
        return label
    before, after = pads[2 * from_end : 2 * from_end + 2]
    if min(before, after) < 0:
        return op.lose('is cropped along its channels')
    return Channels(label.dim, np.pad(label.ids, (before, after), constant_values=-1))


@_rule('Cat')
def _cat(op: Op) -> Label:
    dim = op.saved_dims(ndim=len(op.shape))[0]
    carriers = {label.dim for label, _ in op.inputs if isinstance(label, Channels)}
    if len(carriers) != 1:
        return op.lose('is concatenated with channels along another dim') if carriers else None
    along = carriers.pop()
    unknown = [number for number, (_, shape) in enumerate(op.inputs) if shape is None]
    if along == dim and unknown:
        return op.lose('is concatenated with a constant, whose width may follow it')
    parts = [_ids(op, label, shape, along, op.shape[along]) for label, shape in op.inputs]
    if along == dim:
        return Channels(dim, np.concatenate(parts))
    return _united(op, along, parts)


@_rule('Stack')
def _stack(op: Op) -> Label:
    dim = op.saved_dims(ndim=len(op.shape))[0]
    carriers = {label.dim for label, _ in op.inputs if isinstance(label, Channels)}
    if len(carriers) != 1:
        return op.lose('is stacked with channels along another dim') if carriers else None
    along = carriers.pop()
    size = op.shape[along + (along >= dim)]
    parts = [_ids(op, label, shape, along, size) for label, shape in op.inputs]
    return _united(op, along + (along >= dim), parts)


def _ids(op: Op, label: Label, shape: Shape | None, dim: int, width: int) -> np.ndarray:
    """The elements along one dim of an input; -1 where none makes it."""
    if isinstance(label, Channels):
        return label.ids
    if shape is None:
        return np.full(width, -1)
    elements = op.stored(label, shape, dim) if isinstance(label, Stored) else None
    return np.full(shape[dim], -1) if elements is None else elements


def _united(op: Op, dim: int, parts: Sequence[np.ndarray]) -> Label:
    first = next(part for part in parts if part.max(initial=-1) >= 0)
    for part in parts:
        if part is not first:
            op.elements.unite(first, part)
    return Channels(dim, first)
