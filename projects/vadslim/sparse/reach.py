"""What can reach a layer: channels of its input that are zero whatever the network is given.

The network is run with its zeros as they are and random numbers for all else, also for what each layer gives: once
positive, so that no ReLU cuts anything off, and once negative, for code that looks at that side. Random numbers do not
cancel, so an input channel of zeros, each time, is one that nothing can reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..pruning import run_example
from ..pruning.group import tensors_of
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
    generator = torch.Generator().manual_seed(0)
    twin = _scrambled(model, generator)
    renewed = _Renewed(generator)
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

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.sign = generator, 1
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
            return self.sign * _random(there, self.generator).to(output)

        return renew


def _scrambled(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with random numbers for all that is trained, and for the means that norms subtract."""
    tensors, means = tensors_of(model), set[str]()
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
            means.add(f'{name}.running_mean'.lstrip('.'))
    new = {}
    for name in (*dict(model.named_parameters()), *means & tensors.keys()):
        random = _random(tensors[name].detach() != 0, generator).to(tensors[name])
        new[name] = -random if name in means else random
    return copy_with(model, new)


def _random(there: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers from 0.1 to 10 where a tensor is True, else 0; on its device."""
    noise = torch.rand(there.shape, generator=generator).to(there.device)
    return (10 ** (2 * noise - 1)).masked_fill_(~there, 0)


def not_zero(tensor: Tensor, dim: int) -> np.ndarray:
    """Which positions of a dim hold anything but zeros."""
    found = (tensor.detach() != 0).movedim(dim, 0).reshape(tensor.shape[dim], -1).any(1)
    return np.asarray(found.cpu())


def _without_signs(model: nn.Module, generator: torch.Generator) -> nn.Module:
    means = {
        f'{name}.running_mean'.lstrip('.')
        for name, part in model.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
    }
    trained, new = dict(model.named_parameters()), {}
    for name, tensor in tensors_of(model).items():
        if name in means:
            new[name] = -_positive(tensor, generator)  # it is subtracted
        elif name in trained:
            new[name] = _positive(tensor, generator)
    return copy_with(model, new)


def _positive(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers from 0.5 to 1.5 where a tensor is not zero; NaN is not."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.rand(tensor.shape, generator=generator).to(tensor) + 0.5
    return noise.masked_fill_(tensor.detach() == 0, 0)


def _note(name: str, live: dict[str, np.ndarray]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        given = next(tensors_in((args, kwargs)))
        dim = given.dim() - 1
        if isinstance(module, nn.modules.conv._ConvNd):
            dim -= len(module.kernel_size)
        seen = not_zero(given, dim)
        live[name] = live[name] | seen if name in live else seen

    return hook
