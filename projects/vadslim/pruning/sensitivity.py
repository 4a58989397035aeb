"""Sensitivity: how much worse a network gets when one Group alone is slimmed, and what may go for a given loss.

Pruning filters layer by layer and looking at the accuracy is as old as Li et al., Pruning Filters for Efficient
ConvNets, ICLR 2017, sec. 3.2; here a layer is a Group, so coupled layers are slimmed together, once.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from .allocation import best, removed_count, rounded
from .group import Group

FORMAT = 1
# parts of names that say error or cost; what is not among them is taken for a merit (accuracy, mAP, EPA)
_COSTS = re.compile(
    r'(?<![a-z])(min|mean|avg|m)?(l1|l2|col|collisions?|ade|fde|mr|miss|loss|err|errors?|mae|r?mse|ate|ase|aoe|ave|aae|fp)'
    r'(?![a-z])'
)

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Point:
    """What is to be measured: the network with one Group slimmed.

    Args:
        group: Its name.
        ratio: The fraction that was asked for.
        kept: The units that stay; maybe all of them, where the ratio is less than one unit.
        removed: How many leave.
    """

    group: str
    ratio: float
    kept: tuple[int, ...]
    removed: int


@dataclass(frozen=True)
class Row:
    """What was measured at a point; the metrics by name, nan where the evaluator had nothing to divide by."""

    group: str
    ratio: float
    removed: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Sensitivity:
    """All that has been measured of one network.

    Args:
        groups: Name -> (kind, number of units) of every Group of the network, in its order.
        samples: How many samples each point was evaluated on.
        baseline: Metrics of the network as it is.
        rows: In the order of the Groups, ratios rising.
    """

    groups: Mapping[str, tuple[str, int]]
    samples: int
    baseline: Mapping[str, float]
    rows: tuple[Row, ...] = ()

    def known(self, point: Point) -> dict[str, float] | None:
        """The metrics of a point that need not be measured: nothing leaves, or as many units as at another ratio."""
        if not point.removed:
            return dict(self.baseline)
        alike = (row for row in self.rows if (row.group, row.removed) == (point.group, point.removed))
        return next((row.metrics for row in alike), None)

    def plus(self, point: Point, metrics: Mapping[str, float]) -> Sensitivity:
        """With one more point; one of the same Group and ratio is replaced."""
        rows = [row for row in self.rows if (row.group, row.ratio) != (point.group, point.ratio)]
        rows.append(Row(point.group, point.ratio, point.removed, dict(metrics)))
        order = {name: number for number, name in enumerate(self.groups)}
        return replace(self, rows=tuple(sorted(rows, key=lambda row: (order[row.group], row.ratio))))

    def fraction(self, row: Row) -> float:
        """The fraction of the units that did leave; at most what was asked for."""
        return row.removed / self.groups[row.group][1]

    def curve(self, group: str, larger: Mapping[str, bool]) -> Curve:
        """(fraction removed, relative increase of the metric that suffers most), the fractions rising, (0, 0) first.

        Args:
            group: Its name.
            larger: The metrics that count, and whether larger values are better. An increase that is not known is nan.
        """
        points = {0.0: 0.0}
        for row in self.rows:
            if row.group == group:
                changes = [increase(self.baseline[name], row.metrics[name], larger[name]) for name in larger]
                points[self.fraction(row)] = float(np.max(changes))
        return sorted(points.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is not finite is None, as JSON has no numbers for it."""
        return {
            'format': FORMAT,
            'samples': self.samples,
            'groups': {name: {'kind': kind, 'num_units': units} for name, (kind, units) in self.groups.items()},
            'baseline': _plain(self.baseline),
            'points': [
                {'group': row.group, 'ratio': row.ratio, 'removed': row.removed, 'metrics': _plain(row.metrics)}
                for row in self.rows
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sensitivity:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: The data are of another format.
        """
        if data.get('format') != FORMAT:
            raise ValueError(f'format is {data.get("format")!r}, {FORMAT} is needed')
        return cls(
            {name: (group['kind'], group['num_units']) for name, group in data['groups'].items()},
            data['samples'],
            _numbers(data['baseline']),
            tuple(Row(p['group'], p['ratio'], p['removed'], _numbers(p['metrics'])) for p in data['points']),
        )


def points(groups: Sequence[Group], plans: Mapping[float, Mapping[str, Sequence[int]]]) -> list[Point]:
    """What a sweep measures: every Group that loses units at one of the ratios, at each of them.

    Args:
        groups: All Groups.
        plans: Ratio -> {Group: kept units}, as of ``StructuredPruner.plan``.
    """
    found = []
    for group in groups:
        kept = {ratio: tuple(plans[ratio][group.name]) for ratio in sorted(plans)}
        own = [Point(group.name, ratio, units, group.num_units - len(units)) for ratio, units in kept.items()]
        if any(point.removed for point in own):
            found += own
    return found


def is_cost(metric: str) -> bool:
    """Whether a metric's name says that smaller is better: L2, col, ADE, FDE, MR, loss, error and their like."""
    return _COSTS.search(metric.lower()) is not None


def directions(
    metrics: Iterable[str], larger_is_better: Sequence[str] = (), smaller_is_better: Sequence[str] = ()
) -> dict[str, bool]:
    """Metric -> whether larger values are better: as the fnmatch patterns say, else by its name."""

    def larger(metric: str) -> bool:
        if any(fnmatchcase(metric, pattern) for pattern in larger_is_better):
            return True
        return not any(fnmatchcase(metric, pattern) for pattern in smaller_is_better) and not is_cost(metric)

    return {metric: larger(metric) for metric in metrics}


def increase(before: float, after: float, larger_is_better: bool) -> float:
    """By which fraction of its first value a metric got worse; negative where it got better.

    Returns:
        nan where a value is; infinite where the first value is 0 and the second is not.
    """
    change = before - after if larger_is_better else after - before
    if math.isnan(change) or change == 0:
        return change
    return change / abs(before) if before else math.copysign(math.inf, change)


def allowed(curve: Curve, limit: float) -> float:
    """The largest fraction up to which a curve stays at or below ``limit``.

    Between measured fractions the curve is taken to be a line; beyond the last one nothing is known, so that is the
    most. A curve that falls again after it crossed the limit counts up to the crossing. An increase that is nan or
    infinite is above any limit, and the fraction measured before it is what is allowed.
    """
    here, height = curve[0]
    for fraction, value in curve[1:]:
        if not value <= limit:
            known = math.isfinite(value) and math.isfinite(height)
            return here + (fraction - here) * (limit - height) / (value - height) if known else here
        here, height = fraction, value
    return here


def rules(curves: Mapping[str, Curve], units: Mapping[str, int], limit: float) -> dict[str, Any]:
    """An allocation in the form that ``load_rules`` reads: each Group loses what ``allowed`` says, others nothing.

    Args:
        curves: Per Group.
        units: Number of units per Group; ratios are those of whole units.
        limit: Relative increase that each Group alone may cause. Together they cause more.
    """
    counts = {name: removed_count(allowed(curve, limit), units[name]) for name, curve in curves.items()}
    found = [{'pattern': literal(name), 'ratio': count / units[name]} for name, count in counts.items() if count]
    return {'rules': found, 'default': 0.0}


def literal(name: str) -> str:
    """The pattern of targets, protect and rules that matches a Group's name and no other."""
    pattern = glob.escape(name)
    return f'[{name[0]}]{name[1:]}' if pattern == 'default' or pattern.startswith('kind:') else pattern


class Tolerance:
    """An allocation by measured curves, for the search for a target: all Groups may cause the same increase.

    ``ratio`` r, from 0 to 1, stands for an increase of r / (1 - r), from 0 to any.
    """

    def __init__(self, curves: Mapping[str, Curve]) -> None:
        self.curves = dict(curves)

    @staticmethod
    def limit(ratio: float) -> float:
        """The increase that a ratio stands for."""
        return ratio / (1 - ratio)

    def __call__(
        self, groups: Sequence[Group], scores: Mapping[str, np.ndarray], ratio: float, round_to: int = 1
    ) -> dict[str, list[int]]:
        kept = {}
        for group in groups:
            fraction = allowed(self.curves.get(group.name, [(0.0, 0.0)]), self.limit(ratio))
            count = group.num_units - removed_count(fraction, group.num_units)
            kept[group.name] = best(scores[group.name], rounded(count, group, round_to))
        return kept


def measure(
    start: Sensitivity,
    todo: Sequence[Point],
    evaluate: Callable[[Point], Mapping[str, float]],
    keep: Callable[[Sensitivity], None],
    progress: Callable[[Point, Mapping[str, float], int, int], None],
) -> Sensitivity:
    """Measures what is not known yet, point by point.

    Args:
        start: With the baseline, and whatever was measured before.
        todo: The points.
        evaluate: Gives the metrics of one.
        keep: Called with all that is known after each change, so that nothing measured can be lost.
        progress: Called after each measurement with the point, its metrics, how many were done and how many there are.
    """
    found, done = start, 0
    total = count_unknown(start, todo)
    for point in todo:
        if any((row.group, row.ratio) == (point.group, point.ratio) for row in found.rows):
            continue
        known = found.known(point)
        metrics = evaluate(point) if known is None else known
        found = found.plus(point, metrics)
        keep(found)
        if known is None:
            done += 1
            progress(point, metrics, done, total)
    return found


def count_unknown(found: Sensitivity, todo: Sequence[Point]) -> int:
    """How many points have to be evaluated; those of one Group that lose as many units count once."""
    return len({(point.group, point.removed) for point in todo if found.known(point) is None})


def _plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}
