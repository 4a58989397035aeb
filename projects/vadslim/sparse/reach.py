"""What can reach a layer: channels of its input that are zero whatever the network is given.

The network is run with its zeros as they are and with random positive numbers for all else, as if signs did not exist:
nothing cancels, no ReLU cuts anything off, so an input channel of zeros is one that nothing can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..pruning import run_example
from ..pruning.group import tensors_of
from ..pruning.nesting import map_tensors, tensors_in
from ..pruning.proof import floating_outputs
from ..pruning.slim import copy_with

READERS = (nn.Linear, nn.modules.conv._ConvNd)
_LAYERS = (*READERS, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.Embedding)
ROUNDS = 3  # what code subtracts may still turn out zero for one set of random numbers


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
    for seed in range(ROUNDS):
        generator = torch.Generator().manual_seed(seed)
        twin = _without_signs(model, generator)

        def refresh(module: nn.Module, args: Any, output: Any) -> Any:
            return map_tensors(output, lambda tensor: _positive(tensor, generator))  # noqa: B023  used in this round

        for name, part in twin.named_modules():
            if name in names and isinstance(part, READERS):
                part.register_forward_pre_hook(_note(name, live), with_kwargs=True)
            if isinstance(part, _LAYERS):
                part.register_forward_hook(refresh)
        floating_outputs(twin, lambda network: run_example(network, example), double=False)
    return live


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
