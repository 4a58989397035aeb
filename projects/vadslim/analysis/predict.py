"""What a slim network will cost, from one count of the dense one: no slim network is built or run.

A cost is called with what leaves, {tensor: {dim: positions}}, and predicts. ``StructuredPruner.search`` finds with it
the ratio at which a network costs what it may.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from vadslim.analysis.complexity import Complexity, Product, count_params
from vadslim.analysis.example import Example
from vadslim.analysis.numbers import human

Removed = Mapping[str, Mapping[int, np.ndarray]]

PREFIXES = {'k': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}


def share(removed: Removed, tensor: str, dim: int, start: int, stop: int) -> float:
    """Fraction of the positions from ``start`` to ``stop`` of a tensor's dimension that stays."""
    gone = removed.get(tensor, {}).get(dim)
    if gone is None:
        return 1.0
    left, right = np.searchsorted(gone, (start, stop))
    return 1 - float(right - left) / (stop - start)


class Params:
    """Number of parameters, exact."""

    name, units = 'params', PREFIXES
    tolerance: float | None = None

    def __init__(self, model: nn.Module) -> None:
        self.shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self.dense = float(count_params(model))

    def __call__(self, removed: Removed) -> float:
        left = self.dense
        for name, dims in removed.items():
            if name in self.shapes:
                shape = self.shapes[name]
                left -= math.prod(shape)
                left += math.prod(size - len(dims.get(dim, ())) for dim, size in enumerate(shape))
        return left

    def check(self, slim: nn.Module) -> float:
        """Parameters of a slim network, counted."""
        return float(count_params(slim))

    def show(self, value: float) -> str:
        return human(value)


class Macs:
    """Multiply-accumulates of one forward.

    Exact for everything that multiplies by a weight, as long as the numbers of pixels and tokens stay. Products of
    computed factors (attention) are taken to be as much narrower as the last weight before them in the same module.
    Where Groups change the number of tokens (queries), ``check`` tells by how much that is off.

    Args:
        model: the network as it is.
        run: does one forward, ``run(model)``, of the dense network and of slim ones; or an :class:`Example`.
        counted: what ``count(model, run)`` returned, if it was done already.
    """

    name, units = 'MACs', PREFIXES
    tolerance: float | None = 0.01

    def __init__(
        self, model: nn.Module, run: Callable[[nn.Module], Any] | Example, counted: Complexity | None = None
    ) -> None:
        self.example = run if isinstance(run, Example) else Example(run, '')
        self.counted = self.example.count(model) if counted is None else counted
        self.checked: Complexity | None = None  # of the slim network that was checked last
        self.dense = float(self.counted.macs)
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors}

    def __call__(self, removed: Removed) -> float:
        return float(round(self.dense - sum(self._saved(removed).values())))

    def modules(self, removed: Removed) -> dict[str, float]:
        """MACs of each module that does products itself (not of its children)."""
        left: Counter[str] = Counter()
        for product in self.counted.products:
            left[product.module] += product.macs
        left.subtract(self._saved(removed))
        return dict(left)

    def check(self, slim: nn.Module) -> float:
        """MACs of a slim network, counted."""
        self.checked = self.example.count(slim)
        return float(self.checked.macs)

    def show(self, value: float) -> str:
        return human(value)

    def _saved(self, removed: Removed) -> dict[str, float]:
        """Module -> MACs that leave."""
        saved: dict[str, float] = {}
        for product in self.counted.products:
            left = self._left(product, removed)
            if left < 1:
                saved[product.module] = saved.get(product.module, 0.0) + product.macs * (1 - left)
        return saved

    def _left(self, product: Product, removed: Removed) -> float:
        """Fraction of a product that stays."""
        if not product.weight:
            if product.follows < 0:
                return 1.0
            before = self.counted.products[product.follows]
            return share(removed, before.weight, 0, before.start, before.stop)
        if product.weight not in removed:
            return 1.0
        left = share(removed, product.weight, 0, product.start, product.stop)
        for dim, size in enumerate(self.shapes[product.weight][1:], 1):
            left *= share(removed, product.weight, dim, 0, size)
        return left
