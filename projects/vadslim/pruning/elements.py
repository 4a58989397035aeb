"""Elements, the positions of all prunable dimensions, and how they become Groups.

Every position of every prunable dimension is an *element*. A *label* says which dim of a tensor counts channels, and
which element each position of that dim carries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .group import OPEN, Attr, Group, Index, Slice
from .joining import components, merge_reasons

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """Dim ``dim`` of a tensor carries the elements ``ids``; -1 where no parameter makes the channel."""

    dim: int
    ids: np.ndarray


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer of some shape; ``dims[k]`` is its dim that the tensor's dim ``k`` shows, or None."""

    name: str
    dims: tuple[int | None, ...]
    shape: Shape


Label = Channels | Stored | None
Space = tuple[str, int]  # (tensor, dim)


class Elements:
    """The elements of all (tensor, dim) seen so far, which ones form a unit, and what is known of them."""

    def __init__(self) -> None:
        self.spaces: dict[tuple[str, int], np.ndarray] = {}
        self.size = 0
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.reasons: dict[str, list[np.ndarray]] = {}
        self.attrs: list[tuple[Attr, int]] = []
        self.makers: set[tuple[str, int]] = set()  # where channels are made, not read

    def space(self, tensor: str, dim: int, size: int) -> np.ndarray:
        """The elements of one dim of a tensor, made on the first call."""
        if (tensor, dim) not in self.spaces:
            self.spaces[tensor, dim] = np.arange(self.size, self.size + size)
            self.size += size
        return self.spaces[tensor, dim]

    def unite(self, one: np.ndarray, other: np.ndarray) -> None:
        """Position by position; what meets a channel that nothing makes (-1) cannot leave."""
        made = (one >= 0) & (other >= 0)
        self.pairs.append((one[made], other[made]))
        if not made.all():
            self.mark(np.maximum(one, other)[~made], 'is combined with channels that no parameter makes')

    def mark(self, ids: np.ndarray, reason: str) -> None:
        """Protect the units of these elements: they reach a place that was not followed."""
        self.reasons.setdefault(OPEN + reason, []).append(ids[ids >= 0])

    def mark_label(self, label: Label, reason: str) -> None:
        """Protect all that a label carries; of a parameter every dim."""
        if isinstance(label, Channels):
            self.mark(label.ids, reason)
        elif isinstance(label, Stored):
            for dim, size in enumerate(label.shape):
                self.mark(self.space(label.name, dim, size), reason)

    def units(self) -> np.ndarray:
        """Which elements leave together: for each element the smallest one of its unit."""
        pairs = [(np.empty(0, np.int64),) * 2, *self.pairs]
        ones, others = (np.concatenate(side) for side in zip(*pairs))
        return components(self.size, ones, others)

    def count(self, attr: Attr, element: int) -> None:
        """``attr`` falls with the unit of this element."""
        self.attrs.append((attr, element))

    def groups(
        self, order: Mapping[str, int], ones: Collection[str], name_of: Callable[[list[Space]], tuple[str, str]]
    ) -> list[Group]:
        """Units that lie in the same places form a Group; places that only read make none.

        Args:
            order: Number of every tensor; spaces of other names hold elements together and are no places.
            ones: Tensors that the masked twin fills with 1 where units are gone, not with 0.
            name_of: (name, kind) of a Group from its places, sorted.
        """
        root = self.units()
        spaces = list(self.spaces)
        roots = {space: root[ids] for space, ids in self.spaces.items()}
        falls: dict[int, dict[Attr, int]] = defaultdict(lambda: defaultdict(int))
        for attr, element in self.attrs:
            falls[int(root[element])][attr] += 1

        # units by the set of places they lie in; with what falls with them
        number_of_space = np.repeat(np.arange(len(spaces)), [len(roots[space]) for space in spaces])
        everywhere = np.concatenate([np.empty(0, np.int64), *roots.values()])
        pairs = np.unique(everywhere * len(spaces) + number_of_space)  # as numbers: rows are sorted much more slowly
        lies_in = np.stack(np.divmod(pairs, max(len(spaces), 1)), 1)
        units, first = np.unique(lies_in[:, 0], return_index=True)
        alike: dict[tuple, list[int]] = defaultdict(list)
        for unit, where in zip(units.tolist(), np.split(lies_in[:, 1], first[1:])):
            alike[where.tobytes(), frozenset(falls[unit].items()) if unit in falls else frozenset()].append(unit)

        group_of, number_in_group = np.full(self.size, -1), np.zeros(self.size, np.int64)
        for number, members in enumerate(alike.values()):
            group_of[members], number_in_group[members] = number, np.arange(len(members))
        reasons: dict[int, list[str]] = defaultdict(list)
        for reason, marked in self.reasons.items():
            for number in np.unique(group_of[root[np.concatenate(marked)]]).tolist():
                reasons[number].append(reason)

        found: list[tuple[tuple[int, int], Group]] = []
        for number, ((where, fall), members) in enumerate(alike.items()):
            inside = [spaces[space] for space in np.frombuffer(where, lies_in.dtype)]
            if not self.makers & set(inside):
                continue
            inside = sorted((space for space in inside if space[0] in order), key=lambda s: (order[s[0]], s[1]))
            slices = []
            for space in inside:
                mine = np.flatnonzero(group_of[roots[space]] == number)
                unit = number_in_group[roots[space][mine]]
                index = Index(mine[np.argsort(unit, kind='stable')], np.bincount(unit, minlength=len(members)))
                slices.append(Slice(space[0], space[1], index, float(space[0] in ones)))
            name, kind = name_of(inside)
            attrs = tuple(
                replace(attr, per_unit=count * attr.per_unit) for attr, count in sorted(fall, key=lambda f: f[0].path)
            )
            group = Group(name, kind, len(members), tuple(slices), attrs, protected=merge_reasons(reasons[number]))
            found.append(((order[inside[0][0]], int(slices[0].index.flat[0])), group))
        found.sort(key=lambda item: item[0])
        return list(_numbered(group for _, group in found))


def _numbered(groups: Iterable[Group]) -> Iterator[Group]:
    """Tell Groups of one name apart: name, name.2, name.3."""
    taken: dict[str, int] = defaultdict(int)
    for group in groups:
        taken[group.name] += 1
        count = taken[group.name]
        yield group if count == 1 else replace(group, name=f'{group.name}.{count}')
