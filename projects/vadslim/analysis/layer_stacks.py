"""Layers of a network, found by the numbers in the names of its tensors.

``prefix.N.rest`` is layer N of the stack ``prefix`` where layers are made of named modules:
``model.layers.3.mlp.up.weight`` is, ``head.2.weight`` (an ``nn.Sequential`` of plain layers) is not. Of stacks inside
stacks the outer one has the layers, unless it is made of stages (Swin's ``layers.0.blocks.1``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

#: what lists of layers are called: gaps in their numbers are layers without tensors
_LISTS = re.compile(r'(layers?|layer\d+|blocks?|block\d+|h|resblocks|stages?)$')
MOST_LAYERS = 100_000  # a number above is no layer's


@dataclass(frozen=True)
class Stack:
    """A list of layers.

    Attributes:
        name: dotted path; '' where the network itself is the list.
        layers: number of the layer -> names of its tensors, without that of the layer. Rising, without gaps for lists
            that are called so: a layer without tensors was replaced by an Identity.
        numbered_by_original: whether a gap shows that layers kept their numbers when others went.
    """

    name: str
    layers: dict[int, list[str]]
    numbered_by_original: bool = False

    def path(self, number: int) -> str:
        """Name of a layer."""
        return f'{self.name}.{number}' if self.name else str(number)


def find_stacks(names: Iterable[str]) -> list[Stack]:
    """The stacks of a network, in the order of their first tensors; no tensor is in two of them."""
    lists: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        for prefix, number, rest in _numbered(name):
            lists[prefix][number].append(rest)
    stacks = {prefix: layers for prefix, layers in lists.items() if _modules(layers) > 1}
    chosen = dict.fromkeys(prefix for prefix in stacks if not _inside(prefix, stacks))
    for prefix in sorted(stacks, key=lambda prefix: prefix.count('.')):
        inner = _stages(prefix, stacks) if prefix in chosen else []
        if inner:
            at = list(chosen)
            at[at.index(prefix) : at.index(prefix) + 1] = inner
            chosen = dict.fromkeys(at)
    return [_stack(prefix, stacks[prefix]) for prefix in chosen]


def _numbered(name: str) -> Iterator[tuple[str, int, str]]:
    segments = name.split('.')
    for i, segment in enumerate(segments[:-1]):
        if segment.isascii() and segment.isdecimal() and int(segment[:9]) < MOST_LAYERS:
            yield '.'.join(segments[:i]), int(segment), '.'.join(segments[i + 1 :])


def _modules(layers: Mapping[int, list[str]]) -> int:
    """Number of modules with tensors in the largest layer; 0 if its children have no names."""
    most = 0
    for rests in layers.values():
        owners = {rest.rpartition('.')[0] for rest in rests}
        if any(owner and not owner.split('.')[0].isdecimal() for owner in owners):
            most = max(most, len(owners))
    return most


def _inside(prefix: str, stacks: Iterable[str]) -> bool:
    """Whether a list belongs to a layer of another."""
    return any(prefix.startswith(f'{other}.' if other else '') and prefix != other for other in stacks)


def _stages(prefix: str, stacks: Mapping[str, Mapping[int, list[str]]]) -> list[str]:
    """The stacks of layers inside of a stack of stages; none if the outer one has the layers.

    Stages hold most of their tensors in lists of layers, and the layers of one such list look alike.
    """
    inner = [
        other
        for other in stacks
        if other.startswith(f'{prefix}.' if prefix else '')
        and other != prefix
        and _LISTS.match(other.rpartition('.')[2])
        and _modules(stacks[other]) > 2
        and _alike(stacks[other])
    ]
    inner = [other for other in inner if not _inside(other, inner)]
    held = sum(len(rests) for other in inner for rests in stacks[other].values())
    return inner if held > sum(map(len, stacks[prefix].values())) / 2 else []


def _alike(layers: Mapping[int, list[str]]) -> bool:
    """Whether most layers have names that the largest one has, too; emptied ones have few of them."""
    sets = [set(rests) for rests in layers.values()]
    largest = max(sets, key=len)
    alike = sum(len(one & largest) >= len(one) / 2 for one in sets)
    return alike > len(sets) / 2


def _stack(prefix: str, layers: Mapping[int, list[str]]) -> Stack:
    last = max(layers)
    gaps = last + 1 - len(layers)
    if not gaps or not _LISTS.match(prefix.rpartition('.')[2]):
        return Stack(prefix, {number: layers[number] for number in sorted(layers)})
    return Stack(prefix, {number: layers.get(number, []) for number in range(last + 1)}, numbered_by_original=True)
