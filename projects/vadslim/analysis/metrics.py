"""What the names of metrics tell: of which kind they are, and in which unit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Family(NamedTuple):
    """Metrics that share a scale; '' is an unknown unit, or none."""

    title: str
    unit: str


#: What a lower-case name contains -> family; the plan first, as it is what the network is for.
_FAMILIES = tuple(
    (re.compile(pattern), Family(title, unit))
    for pattern, title, unit in (
        (r'(?<![a-z])l2(?![a-z0-9])', 'L2', 'm'),
        (r'(?<![a-z])box_col(?![a-z])', 'Collisions', 'fraction'),
        (r'(?<![a-z])col(lisions?)?(?![a-z])', 'Collisions', 'fraction'),
        (r'(?<![a-z])(nds|epa|m?ap)(?![a-z])', 'Scores', 'fraction'),
        (r'(?<![a-z])(min)?[af]de(?![a-z])', 'Displacement', 'm'),
        (r'(?<![a-z])m(iss)?r(?![a-z])', 'Misses', 'fraction'),
        (r'', 'Metrics', ''),
    )
)

#: Parts of another metric, which stands beside them: one class at one threshold, errors of one class, counts.
_DETAILS = re.compile(r'_ap_(dist|thr)_|_(trans|scale|orient|vel|attr)_err$|(^|_)(gt|cnt|hit|fp)_')


def is_detail(name: str) -> bool:
    """Whether a metric is one of the many that another sums up; pictures leave them out."""
    return _DETAILS.search(name.lower()) is not None


def family(name: str) -> Family:
    """The family of a metric."""
    return _FAMILIES[_place(name)][1]


def in_order(names: Iterable[str]) -> list[str]:
    """L2, collisions and scores first; names of a family keep their order."""
    return sorted(dict.fromkeys(names), key=_place)


def _place(name: str) -> int:
    return next(place for place, (pattern, _) in enumerate(_FAMILIES) if pattern.search(name.lower()))
