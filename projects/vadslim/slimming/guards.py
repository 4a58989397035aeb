"""Guard rails: how much worse the plan may become, and whether it did."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vadslim.cli import UserError

# name -> the metrics whose mean counts (VAD's "Avg." over 1, 2 and 3 s, not the values "at" these times), unit of an
# absolute increase, its size
METRICS = {'L2': ('*plan_L2_[123]s', 'm', 1.0), 'collision': ('*plan_obj_box_col_[123]s', 'pp', 0.01)}


@dataclass(frozen=True)
class Limit:
    """By how much a metric may grow.

    Args:
        name: 'L2' (metres) or 'collision' (a fraction of the frames).
        text: As it was typed: a part of what the metric was ('0.1', '10%'), or an increase with its unit ('0.05m' of
            L2; '0.1pp', percentage points, of collision).

    Raises:
        UserError: The text is none of these.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        self.allowed(1.0)

    @property
    def flag(self) -> str:
        return f'--max-{self.name.lower()}-increase'

    def allowed(self, before: float) -> float:
        """The largest value that holds."""
        _, unit, size = METRICS[self.name]
        found = re.fullmatch(rf'(\d+\.?\d*|\.\d+)\s*(%|{unit})?', self.text.strip())
        if not found:
            raise UserError(
                f'{self.flag} {self.text}: an increase is needed, as a part of what it was (0.1, 10%) or as 0.1{unit}'
            )
        number = float(found[1])
        if found[2] == unit:
            return before + number * size
        return before * (1 + number / (100 if found[2] else 1))

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric.

        Raises:
            UserError: It was not measured.
        """
        pattern = METRICS[self.name][0]
        values = [value for name, value in metrics.items() if fnmatchcase(name, pattern)]
        if not values or not all(map(math.isfinite, values)):
            known = ', '.join(metrics) or 'nothing'
            what = 'is not a number for these data' if values else f'is none of what the evaluators report ({known})'
            raise UserError(f'{self.flag}: {pattern} {what}')
        return sum(values) / len(values)

    def breach(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        """What is wrong with the metrics, in words; '' if they hold."""
        old, new = self.value(before), self.value(after)
        largest = self.allowed(old)
        if new <= largest:
            return ''
        unit = METRICS[self.name][1]
        scale, unit = (100, '%') if unit == 'pp' else (1, ' m')
        old, new, largest = (f'{value * scale:.3g}{unit}' for value in (old, new, largest))
        return f'{self.name} {new} where {largest} is allowed (it was {old})'


def breaches(limits: tuple[Limit, ...], before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Everything that does not hold, in words; '' if all does."""
    return ' and '.join(filter(None, (limit.breach(before, after) for limit in limits)))
