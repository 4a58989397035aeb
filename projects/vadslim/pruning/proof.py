"""The proof of a correct Group: in float64, the masked twin and the slim copy compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .group import Group, tensors_of
from .joining import merge_reasons
from .mask import mask
from .nesting import map_tensors, tensors_in
from .passes import seed_torch
from .slim import copy_with, resize
from .structure import check_kept, make_structure

Run = Callable[[nn.Module], Any]
RTOL, RTOL_FLOAT32 = 1e-9, 1e-3


class ProofError(AssertionError):
    """The masked twin and the slim copy differ, or the slim copy does not run."""


def check_group(
    module: nn.Module,
    groups: Sequence[Group] | Group,
    kept: Mapping[str, Sequence[int]],
    run: Run,
    rtol: float = RTOL,
) -> float:
    """Compare the masked twin with the slim copy of a module.

    Both are made from a float64 copy of the module in eval mode, and run without gradients, from the same random
    state.

    Args:
        module: The model, or the part of it that owns the Groups.
        groups: Its Groups (one or several at once).
        kept: Group name -> kept units.
        run: Does one forward of the module that it is called with and returns tensors in any nesting. What it
            passes to the module itself is cast to float64.
        rtol: Allowed difference, relative to the largest magnitude of each output.

    Returns:
        The largest relative difference.

    Raises:
        ProofError: It is above ``rtol``, the outputs differ in shape, or the slim copy does not run.
    """
    groups = [groups] if isinstance(groups, Group) else groups
    worst, why = _compare(module, groups, kept, run, double=True)
    if not worst <= rtol:
        names = ', '.join(g.name for g in groups if len(kept.get(g.name, range(g.num_units))) < g.num_units)
        raise ProofError(f'{names[:200]}: {why}, {rtol:g} is allowed')
    return worst


def wrong_groups(
    module: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]], run: Run
) -> dict[str, str]:
    """The Groups whose slim network does not compute what the masked one does, and how they differ; {} if all is well.

    All are slimmed at once. Only if that goes wrong are the guilty ones looked for, by halving. A module that does not
    run in float64 is compared as it is, more loosely. Arguments as in ``check_group``.
    """

    kept = check_kept(groups, kept)

    def trouble(some: Sequence[Group]) -> str:
        why, part = '', {group.name: kept[group.name] for group in some}
        for double, rtol in ((True, RTOL), (False, RTOL_FLOAT32)):
            try:
                worst, why = _compare(module, groups, part, run, double)
                return '' if worst <= rtol else why
            except Exception as error:  # the masked twin: its code may know float32 only, or raise anything
                why = f'the masked twin does not run: {_in_one_line(error)}'
        return why

    def search(some: Sequence[Group]) -> dict[str, str]:
        why = trouble(some) if some else ''
        if not why or len(some) == 1:
            return {group.name: why for group in some if why}
        middle = len(some) // 2
        found = {**search(some[:middle]), **search(some[middle:])}
        return found or dict.fromkeys((group.name for group in some), why)

    return search([group for group in groups if group.name in kept])


def protect_wrong(module: nn.Module, groups: Sequence[Group], run: Run) -> list[Group]:
    """Try what is left without half of the units of all Groups, and protect those that are wrong."""
    wrong = wrong_groups(module, groups, {group.name: _half(group) for group in groups if not group.protected}, run)
    result = []
    for group in groups:
        if group.name in wrong:
            reason = f'tried without half of its units: {wrong[group.name]}'
            group = replace(group, protected=merge_reasons([group.protected, reason]))
        result.append(group)
    return result


def _half(group: Group) -> list[int]:
    """Half of the units, scattered, to keep."""
    order = np.random.default_rng(group.num_units).permutation(group.num_units)
    return sorted(order[: max(group.min_units, group.num_units // 2)].tolist())


def _compare(
    module: nn.Module, groups: Sequence[Group], kept: Mapping[str, Sequence[int]], run: Run, double: bool
) -> tuple[float, str]:
    """Largest relative difference of the slim copy to the masked twin, and what it is in words."""
    if double:  # first: masking computes with weights, too
        floating = {name: tensor for name, tensor in tensors_of(module).items() if tensor.is_floating_point()}
        module = copy_with(module, {name: tensor.detach().double() for name, tensor in floating.items()})
    structure = make_structure(module, groups, kept)
    expected = floating_outputs(mask(module, groups, kept), run, double)
    try:
        result = floating_outputs(resize(module, structure), run, double)
    except Exception as error:  # the module's own code may raise anything
        return float('inf'), f'the slim copy does not run: {_in_one_line(error)}'
    worst = max_error(result, expected)
    how = f'by {worst:.3g}' if np.isfinite(worst) else 'in shape or in what is not a number'
    return worst, f'slim and masked differ {how}'


def _in_one_line(error: Exception) -> str:
    return ' '.join(str(error).replace(';', ',').split())[:200] or type(error).__name__


def floating_outputs(module: nn.Module, run: Run, double: bool) -> list[Tensor]:
    """The floating-point outputs of a module that is used for nothing else, with the same random numbers each time."""
    module.eval()  # some modules return nothing here
    dtype = torch.get_default_dtype()
    if double:
        module.register_forward_pre_hook(_double_inputs, with_kwargs=True)
    with torch.no_grad(), torch.random.fork_rng():
        seed_torch(0)
        torch.set_default_dtype(torch.float64 if double else dtype)
        try:
            return [tensor for tensor in tensors_in(run(module)) if tensor.is_floating_point()]
        finally:
            torch.set_default_dtype(dtype)


def _double_inputs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    def cast(tensor: Tensor) -> Tensor:
        # a copy: some models change their inputs in place
        return tensor.to(torch.float64, copy=True) if tensor.is_floating_point() else tensor

    return map_tensors(args, cast), map_tensors(kwargs, cast)


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
        if difference != 0:  # NaN included
            error = (difference / scale.clamp_min(1e-300)).item()
            worst = max(worst, error if error == error else float('inf'))
    return worst
