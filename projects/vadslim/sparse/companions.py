"""What goes with an output channel that has no weights left: its bias, and its place in the batch norm behind it.

A filter of zeros behind which a batch norm adds its beta gives a constant, not nothing. Only where gamma, beta and the
filter's own bias are zero as well is the network without the channel exactly the same (``removal``).

    found = find_companions(model, example)
    both = {**masks, **companion_masks(masks, found)}      or   with_companions(model, masks, example)
    HardMask(parameters_of(model, both), both)             as for the weights; ``cases`` and ``Penalty`` take them too

``remain_weight`` is a matter of the weights alone: of ``masks``, not of ``both``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..pruning import run_example
from ..pruning.group import first_names
from ..pruning.proof import floating_outputs
from ..pruning.slim import copy_with
from .masks import Masks, SparseError, rows

Companions = dict[str, tuple[str, ...]]
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # the first dim of their weight counts outputs


def find_companions(model: nn.Module, example: Any) -> Companions:
    """Which parameters have one entry per output channel of a layer, and mean nothing without it.

    These are the layer's bias, and gamma and beta of each batch norm that is given the very tensor which the layer
    returned. Frozen ones are left out: no optimizer can set them to zero.

    Args:
        model: Left as it is; a copy is run once, in eval mode.
        example: A tensor, a tuple (positional arguments), a dict (keyword arguments) or a function run(model) that
            does one forward, as in ``find_groups``.

    Returns:
        {bias, gamma or beta: the weights of all layers whose channels it belongs to}. A batch norm that also
        normalises something else than the outputs of layers is left out.
    """
    first, trained = first_names(model), {name for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, dict[str, None]] = defaultdict(dict)
    shared: set[str] = set()
    twin = copy_with(model, {})
    makers: dict[int, tuple[Tensor, str]] = {}  # tensors are kept: another may get the id of one that is gone

    def watch(start: str, part: nn.Module) -> None:
        def made(module: nn.Module, args: Any, output: Any) -> None:
            makers[id(output)] = output, f'{start}weight'

        def normalised(module: nn.Module, args: Any) -> None:
            _, maker = makers.get(id(args[0]) if args else 0, (None, None))
            for parameter in ('weight', 'bias'):
                if maker is None:
                    shared.add(first.get(f'{start}{parameter}', ''))
                else:
                    add(f'{start}{parameter}', maker)

        if isinstance(part, _LAYERS):
            part.register_forward_hook(made)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_pre_hook(normalised)

    def add(parameter: str, maker: str) -> None:
        if first.get(parameter) in trained:
            found[first[parameter]].setdefault(first[maker])

    for name, part in twin.named_modules():
        start = f'{name}.' if name else ''
        watch(start, part)
        if isinstance(part, _LAYERS):
            add(f'{start}bias', f'{start}weight')
    floating_outputs(twin, lambda network: run_example(network, example), double=False)
    return {parameter: tuple(layers) for parameter, layers in found.items() if parameter not in shared}


def companion_masks(masks: Mapping[str, Tensor], companions: Mapping[str, tuple[str, ...]]) -> Masks:
    """Masks of the companions of masked weights: (C,) bool, True where any weight of the channel is left.

    A companion of several layers stays where any of them has weights left, and is left out if one of them has no mask.

    Raises:
        SparseError: Masks of two layers that share a companion, but not its width.
    """
    found: Masks = {}
    for parameter, layers in companions.items():
        if parameter in masks or not all(layer in masks for layer in layers):
            continue
        left = [rows(masks[layer]).any(1) for layer in layers]
        if len({one.shape for one in left}) > 1:
            raise SparseError(f'{parameter} belongs to {" and ".join(layers)}, whose masks differ in width')
        found[parameter] = sum(one.int() for one in left).bool() if len(left) > 1 else left[0]  # type: ignore[union-attr]
    return found


def with_companions(model: nn.Module, masks: Mapping[str, Tensor], example: Any) -> Masks:
    """The masks of the weights, then those of their companions; arguments as above."""
    return {**masks, **companion_masks(masks, find_companions(model, example))}


def parameters_of(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The parameters that masks are of, weights and companions alike, in the order of the masks.

    Raises:
        SparseError: The model has no such parameter.
    """
    named = dict(model.named_parameters())
    for name in masks:
        if name not in named:
            raise SparseError(f'there is a mask of {name}, which is no parameter of {type(model).__name__}')
    return {name: named[name] for name in masks}
