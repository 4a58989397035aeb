"""What differs between two configs, key by dotted key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Compares two configs of plain data.

    Returns:
        dotted key -> ``{'a': value, 'b': value}`` of those that differ; a side without the key is left out. Lists of
        dicts are compared item by item, with the number as a key; other lists are values, tuples are lists.
    """
    of_a, of_b = dict(_flat(a, '')), dict(_flat(b, ''))
    found = {}
    for key in dict.fromkeys([*of_a, *of_b]):
        sides = {side: flat[key] for side, flat in (('a', of_a), ('b', of_b)) if key in flat}
        if len(sides) < 2 or not _same(sides['a'], sides['b']):
            found[key] = sides
    return found


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _flat(item: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Mapping) and item:
        pairs = list(item.items())
    elif isinstance(item, list | tuple) and any(isinstance(part, Mapping) for part in item):
        pairs = list(enumerate(item))
    else:
        yield path, _jsonable(item)
        return
    for key, part in pairs:
        yield from _flat(part, f'{path}.{key}' if path else str(key))


def _jsonable(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {str(key): _jsonable(part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_jsonable(part) for part in item]
    return str(item) if isinstance(item, float) and not math.isfinite(item) else item
