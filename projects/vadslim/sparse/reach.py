"""What can reach a layer: channels of its input that are zero whatever the network is given.

The network is run with random numbers in place of what its layers give, wherever that is not zero: positive ones, so
that no ReLU cuts anything off, and negative ones, for code that looks at that side. Random numbers do not cancel, so an
input channel that is zero each time is one that nothing can reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..pruning import run_example
from ..pruning.nesting import tensors_in
from ..pruning.proof import floating_outputs
from ..pruning.slim import copy_with

READERS = (nn.Linear, nn.modules.conv._ConvNd)
_LAYERS = (*READERS, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.Embedding)


def live_inputs(model: nn.Module, example: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Which channels of the inputs of some linear layers and convolutions can be anything but zero.

    Args:
        model: Left as it is, mode and hooks included.
        example: One forward, as in ``find_groups``.
        names: Of such layers.

    Returns:
        Name -> (input channels,) bool, over all calls. A layer that was not called as a module is missing.
    """
    names, live = set(names), dict[str, np.ndarray]()
    twin, renewed = copy_with(model, {}), _Renewed()
    for name, part in twin.named_modules():
        if name in names and isinstance(part, READERS):
            part.register_forward_pre_hook(_note(name, live), with_kwargs=True)
        if isinstance(part, _LAYERS):
            part.register_forward_hook(renewed.hook(name))
    for sign in (1, -1, 1):
        renewed.start(sign)
        floating_outputs(twin, lambda network: run_example(network, example), double=False)
    return live


class _Renewed:
    """Random numbers of one sign in place of what layers give: not zero where that was not zero, now or before."""

    def __init__(self) -> None:
        self.generator, self.sign = torch.Generator().manual_seed(0), 1
        self.calls: Counter[str] = Counter()
        self.given: dict[tuple[str, int], Tensor] = {}

    def start(self, sign: int) -> None:
        """Before each run."""
        self.sign = sign
        self.calls.clear()

    def hook(self, name: str) -> Callable[..., Any]:
        """For a layer of this name."""

        def renew(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                return output
            self.calls[name] += 1
            key, there = (name, self.calls[name]), output != 0
            if key in self.given and self.given[key].shape == there.shape:
                there |= self.given[key]
            self.given[key] = there
            noise = torch.rand(there.shape, generator=self.generator).to(output)
            return (self.sign * 10 ** (2 * noise - 1)).masked_fill_(~there, 0)  # 0.1 to 10

        return renew


def not_zero(tensor: Tensor, dim: int) -> np.ndarray:
    """Which positions of a dim hold anything but zeros."""
    found = (tensor.detach() != 0).movedim(dim, 0).reshape(tensor.shape[dim], -1).any(1)
    return np.asarray(found.cpu())


def _note(name: str, live: dict[str, np.ndarray]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = next(tensors_in((args, kwargs)))
        dim = given.dim() - 1
        if isinstance(module, nn.modules.conv._ConvNd):
            dim -= len(module.kernel_size)
        seen = not_zero(given, dim)
        live[name] = live[name] | seen if name in live else seen

    return hook
