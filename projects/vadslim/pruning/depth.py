"""The edit by which whole layers leave."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .edits import Edit, EditError, Number, Rename, check_fields, count_in, edit_type, list_in


@edit_type
@dataclass(frozen=True)
class Depth(Edit):
    """Whole layers of a stack leave; those that stay are numbered anew.

    Args:
        layers: Dotted path of an ``nn.ModuleList`` or ``nn.Sequential``.
        num_layers: How many it has in the dense network.
        kept: The layers that stay, rising.
        beside: Paths of lists with one entry per layer, which go with their layer.
        attrs: 'module.attr' of the numbers that say how many layers there are.
    """

    type = 'depth'
    layers: str
    num_layers: int
    kept: tuple[int, ...]
    beside: tuple[str, ...] = ()
    attrs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept)):
            raise EditError(f'{self.layers}: kept layers are not a rising, non-empty list')
        if self.kept[0] < 0 or self.kept[-1] >= self.num_layers:
            raise EditError(f'{self.layers}: kept layers have to be among 0 to {self.num_layers - 1}')

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Depth:
        check_fields(data, ('layers', 'num_layers', 'kept'), ('beside', 'attrs'))
        if not isinstance(data['layers'], str):
            raise EditError('layers is not a path')
        beside, attrs = (list_in(data, key, str) for key in ('beside', 'attrs'))
        return cls(data['layers'], count_in(data['num_layers']), list_in(data, 'kept', int), beside, attrs)

    def to_dict(self) -> dict[str, Any]:
        lists = {'kept': list(self.kept), 'beside': list(self.beside), 'attrs': list(self.attrs)}
        return {'type': self.type, 'layers': self.layers, 'num_layers': self.num_layers, **lists}

    @property
    def stacks(self) -> Set[str]:
        return {self.layers, *self.beside}

    @property
    def about(self) -> Set[str]:
        return self.stacks

    @property
    def numbers(self) -> dict[str, Number]:
        return dict.fromkeys(self.attrs, len(self.kept))

    def child(self, name: str) -> str | None:
        if not name.isdecimal():
            return name
        return str(self.kept.index(int(name))) if int(name) in self.kept else None

    def dense_child(self, name: str) -> str:
        if not name.isdecimal():
            return name
        if int(name) >= len(self.kept):
            raise EditError(f'{self.layers} has no layer {name} any more, {len(self.kept)} stayed')
        return str(self.kept[int(name)])

    def renamed(self, rename: Rename) -> Depth:
        beside, attrs = (tuple(map(rename, paths)) for paths in (self.beside, self.attrs))
        return replace(self, layers=rename(self.layers), beside=beside, attrs=attrs)

    def then(self, later: Depth, same: bool) -> Depth:
        count = self.num_layers if same else len(self.kept)
        if later.num_layers != count or later.about != self.about:
            raise EditError(f'{later.layers}: the second edit is of other layers than the first has left')
        if same and not set(later.kept) <= set(self.kept):
            raise EditError(f'{later.layers}: the second edit keeps layers that the first has removed')
        return replace(self, kept=later.kept if same else tuple(self.kept[layer] for layer in later.kept))

    def check(self, model: nn.Module) -> None:
        for path in (self.layers, *self.beside):
            found = list(stack_at(model, path)._modules)
            if len(found) != self.num_layers or found != [str(number) for number in range(len(found))]:
                names = ', '.join(found[:8])
                raise EditError(f'{path} has the layers {names}; the edit was made for {self.num_layers}')

    def check_state(self, state: Mapping[str, Any]) -> None:
        for path in self.stacks:
            start = f'{path}.'
            found = {name[len(start) :].split('.')[0] for name in state if name.startswith(start)}
            if len(found) != self.num_layers and (found or path == self.layers):
                raise EditError(f'{path} has {len(found)} layers in the state, the edit was made for {self.num_layers}')

    def shorten(self, module: nn.Module) -> None:
        layers = [module._modules[str(layer)] for layer in self.kept]
        module._modules.clear()
        module._modules.update({str(number): layer for number, layer in enumerate(layers)})


def stack_at(model: nn.Module, path: str) -> nn.Module:
    """The list of layers at a path."""
    try:
        stack = model.get_submodule(path)
    except AttributeError:
        raise EditError(f'the model has no {path}') from None
    if not isinstance(stack, nn.ModuleList | nn.Sequential):
        raise EditError(f'{path} is a {type(stack).__name__}, not a list of layers')
    return stack
