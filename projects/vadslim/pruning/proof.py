"""The proof of a correct Group: in float64, the masked twin and the slim copy compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .group import Group
from .mask import mask
from .nesting import tensors_in
from .slim import resize
from .structure import make_structure


class ProofError(AssertionError):
    """The masked twin and the slim copy differ, or the slim copy does not run."""


def check_group(
    module: nn.Module,
    groups: Sequence[Group] | Group,
    kept: Mapping[str, Sequence[int]],
    run: Callable[[nn.Module], Any],
    rtol: float = 1e-9,
) -> float:
    """Compare the masked twin with the slim copy of a module.

    Both are made from a float64 copy of the module in eval mode, without gradients.

    Args:
        module: The model, or the part of it that owns the Groups.
        groups: Its Groups (one or several at once).
        kept: Group name -> kept units.
        run: Called with a float64 module; feeds it float64 inputs and returns tensors in any nesting.
        rtol: Allowed difference, relative to the largest magnitude of each output.

    Returns:
        The largest relative difference.

    Raises:
        ProofError: It is above ``rtol``, the outputs differ in shape, or the slim copy does not run.
    """
    groups = [groups] if isinstance(groups, Group) else groups
    names = ', '.join(
        group.name for group in groups if len(kept.get(group.name, range(group.num_units))) < group.num_units
    )
    dense = copy.deepcopy(module).double()
    dense.eval()  # some modules return nothing here
    twin = mask(dense, groups, kept)
    with torch.no_grad():
        expected = _floating(run(twin))
        try:
            slim = resize(dense, make_structure(dense, groups, kept))
            result = _floating(run(slim))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise ProofError(f'{names[:200]}: the slim copy does not run: {error}') from error
    worst = max_error(result, expected)
    if not worst <= rtol:
        raise ProofError(f'{names[:200]}: slim and masked differ by {worst:.3g}, {rtol:g} is allowed')
    return worst


def _floating(value: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(value) if tensor.is_floating_point()]


def max_error(result: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference relative to each expected tensor's largest value; inf when shapes or NaNs differ."""
    if [tuple(x.shape) for x in result] != [tuple(x.shape) for x in expected] or not expected:
        return float('inf')
    worst = 0.0
    for one, other in zip(result, expected):
        if one.numel() == 0:
            continue
        same = (one == other) | (one.isnan() & other.isnan())
        difference = torch.where(same, 0.0, (one - other).abs()).max()
        scale = torch.where(other.isfinite(), other, 0.0).abs().max()
        error = (difference / scale.clamp_min(1e-300)).item() if difference > 0 else 0.0
        worst = max(worst, error if error == error else float('inf'))
    return worst
