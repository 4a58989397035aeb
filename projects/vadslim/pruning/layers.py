"""Layers that a trace knows as a whole: which elements they read, and which they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .elements import Channels, Elements, Label
from .group import Attr

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
LAYERS = (_ConvNd, nn.Linear, nn.Embedding, *NORMS)
VECTORS = ('weight', 'bias', 'running_mean', 'running_var')  # of a norm, one number per channel


def stock_class(part: nn.Module) -> type[nn.Module] | None:
    """The class of torch that a known layer is, or is derived from; None for what is no layer of this file.

    A weight that is computed (weight norm, a parametrization), or tensors besides torch's own (low-rank adapters),
    make it another layer.
    """
    if not isinstance(part, LAYERS) or 'weight' not in part._parameters:
        return None
    if {*part._parameters, *part._buffers, *part._modules} - {*VECTORS, 'num_batches_tracked'}:
        return None
    return next(cls for cls in type(part).__mro__ if cls.__module__.startswith('torch.nn.modules.'))


def as_stock(part: nn.Module) -> nn.Module | None:
    """A layer of torch's own class with the same tensors and numbers; None when ``part`` is one itself.

    A subclass may do what its base does (and a bit of bookkeeping), or something else, such as standardising its
    weight first: only running both tells.
    """
    cls = stock_class(part)
    if cls is None or type(part) is cls and 'forward' not in vars(part):
        return None
    twin = cls.__new__(cls)
    twin.__dict__.update({key: value for key, value in vars(part).items() if key != 'forward'})
    return twin


class Layer:
    """Which elements a known layer reads and makes.

    Args:
        part: The layer.
        name: Its dotted path.
        elements: Where elements are made, united and marked.
        first: Every dotted name of a tensor -> its first one.
    """

    def __init__(self, part: nn.Module, name: str, elements: Elements, first: Mapping[str, str]) -> None:
        self.part: Any = part
        self.name, self.elements, self.first = name, elements, first

    def channel_dim(self, ndim: int) -> int:
        """Which dim of an input or output of ``ndim`` dims counts channels."""
        if isinstance(self.part, nn.Linear | nn.LayerNorm | nn.Embedding):
            return ndim - 1
        if isinstance(self.part, _ConvNd):
            return ndim - 1 - len(self.part.kernel_size)
        return 0 if ndim == 1 else 1

    def reads(self, given: np.ndarray) -> np.ndarray:
        """The elements that the input's channels have to be united with."""
        if isinstance(self.part, nn.Linear):
            return self._weight(1)
        if not isinstance(self.part, _ConvNd):
            return given
        if self.part.groups == 1:
            return self._weight(0 if self.part.transposed else 1)
        return self._whole_groups()[0]

    def reading(self) -> list[np.ndarray]:
        """The elements of the layer's own tensors that stand for its input's channels."""
        if isinstance(self.part, nn.Embedding):
            return []
        if isinstance(self.part, nn.Linear | _ConvNd):
            return [self.reads(np.empty(0, np.int64))]
        return [ids for ids in map(self._vector, VECTORS) if ids is not None]

    def makes(self, label: Label) -> np.ndarray | None:
        """The elements of the output's channels; None when nothing is known about them."""
        if isinstance(self.part, NORMS):
            return self._norm(label)
        if isinstance(self.part, nn.Embedding):
            return self._weight(1, makes=True)
        if isinstance(self.part, _ConvNd) and self.part.groups > 1:
            return self._whole_groups()[1]
        ids = self._weight(1 if isinstance(self.part, _ConvNd) and self.part.transposed else 0, makes=True)
        self._bias(ids)
        return ids

    def _space(self, attribute: str, dim: int, makes: bool = False) -> np.ndarray | None:
        """The elements of a dim of one of the layer's tensors; None without that tensor."""
        tensor = getattr(self.part, attribute, None)
        if not isinstance(tensor, Tensor):
            return None
        name = self.first[f'{self.name}.{attribute}' if self.name else attribute]
        if makes:
            self.elements.makers.add((name, dim))
        return self.elements.space(name, dim, tensor.shape[dim])

    def _vector(self, attribute: str) -> np.ndarray | None:
        return self._space(attribute, 0)

    def _weight(self, dim: int, makes: bool = False) -> np.ndarray:
        ids = self._space('weight', dim, makes)
        assert ids is not None, f'{self.name} has no weight'
        return ids

    def _width(self, size: int) -> np.ndarray:
        """Elements that stand for the width of a norm without tensors, which only a number of it tells."""
        seen = (self.name + ':width', 0) in self.elements.spaces
        ids = self.elements.space(self.name + ':width', 0, size)
        attr = Attr(self.name, 'num_channels' if isinstance(self.part, nn.GroupNorm) else 'num_features')
        for element in [] if seen else ids.tolist():
            self.elements.count(attr, element)
        return ids

    def _bias(self, ids: np.ndarray) -> None:
        bias = self._vector('bias')
        if bias is not None:
            self.elements.unite(ids, bias)

    def _whole_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """A grouped (or depthwise) convolution loses whole groups: inputs, outputs and one of ``groups``."""
        seen = (self.name + ':in', 0) in self.elements.spaces
        inner = self.elements.space(self.name + ':in', 0, self.part.in_channels)
        outer = self.elements.space(self.name + ':out', 0, self.part.out_channels)
        if not seen:
            self.elements.unite(inner if self.part.transposed else outer, self._weight(0, makes=True))
            self._bias(outer)
            groups = self.part.groups
            for in_group, out_group in zip(inner.reshape(groups, -1), outer.reshape(groups, -1)):
                members = np.concatenate([in_group, out_group])
                self.elements.unite(np.full(len(members), members[0]), members)
                self.elements.count(Attr(self.name, 'groups'), int(members[0]))
        return inner, outer

    def _norm(self, label: Label) -> np.ndarray | None:
        """A norm passes its channels on; a GroupNorm loses whole groups."""
        if not isinstance(label, Channels):
            return None
        ids, part = label.ids, self.part
        if isinstance(part, nn.PReLU) and part.weight.numel() == 1:
            return ids
        if isinstance(part, nn.LayerNorm) and (len(part.normalized_shape) != 1 or part.weight is None):
            self.elements.mark(ids, f'{self.name} is a LayerNorm whose width no vector of weights tells')
            return ids
        for own in self.reading() or [self._width(len(ids))]:
            self.elements.unite(ids, own)
        if isinstance(part, nn.GroupNorm) and (self.name + ':groups', 0) not in self.elements.spaces:
            heads = self.elements.space(self.name + ':groups', 0, part.num_groups)
            self.elements.unite(np.repeat(heads, len(ids) // part.num_groups), ids)
            for element in heads.tolist():
                self.elements.count(Attr(self.name, 'num_groups'), element)
        return ids
