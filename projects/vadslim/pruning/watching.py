"""What the autograd graph of a forward does not tell: constants, and values that leave the graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from .nesting import tensors_in

# Their results have a tensor's shape, not its values.
MAKERS = ('new_empty', 'new_full', 'new_ones', 'new_tensor', 'new_zeros')
# They return no tensor, but tell values.
READERS = ('item', 'tolist', 'numpy', '__array__', '__bool__', '__float__', '__int__')
SPLITS = ('split', 'split_with_sizes', 'tensor_split')

Edge = tuple[Any, int]  # a node of the graph, and which of its outputs


class Watch(TorchFunctionMode):
    """Notes every call of a function of torch in a forward.

    Attributes:
        splits: Nodes of ``split``, whose sizes stand in the code; ``chunk`` adapts by itself.
        constants: Node -> shapes of those arguments of its function that have no gradient. A node that is not there
            was made inside a function and may have met anything.
        left: (tensor, its edge, what took it) for every tensor whose values go where no gradient follows: detach,
            no_grad, a comparison, argmax.
    """

    def __init__(self) -> None:
        super().__init__()
        self.splits: set[Any] = set()
        self.constants: dict[Any, list[tuple[int, ...]]] = {}
        self.left: list[tuple[Tensor, Edge, str]] = []
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is noted."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        given = list(tensors_in((args, kwargs)))
        tracked = edges(given)  # now: a function in place changes them
        constants = [tuple(tensor.shape) for tensor in given if not tensor.requires_grad]
        result = func(*args, **kwargs)
        results = list(tensors_in(result))
        name = getattr(func, '__name__', str(func))
        if _takes_values(name, results):
            name = str(resolve_name(func)) if name == '__get__' else name
            self.left += [(tensor, edge, name) for tensor, edge in tracked]
        for tensor in results:
            if tensor.grad_fn is not None:
                self.constants.setdefault(tensor.grad_fn, []).extend(constants)
                if name in SPLITS:
                    self.splits.add(tensor.grad_fn)
        return result


def edges(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Edge]]:
    """The tensors that have gradients, with their places in the graph (node None for a leaf)."""
    return [(tensor, (tensor.grad_fn, tensor.output_nr)) for tensor in tensors if tensor.requires_grad]


def _takes_values(name: str, results: Sequence[Tensor]) -> bool:
    """Whether a function hands on the values of its arguments without a gradient."""
    if name in READERS:
        return True
    if name in MAKERS or name.endswith('_like'):
        return False
    return any(not tensor.requires_grad for tensor in results) or bool(results) and not torch.is_grad_enabled()
