"""What each Group saves, or would save, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from vadslim.analysis import Complexity, GroupRow, Macs, Params
from vadslim.pruning import Group, Uniform, savings


def with_savings(
    rows: Sequence[GroupRow],
    groups: Sequence[Group],
    kept: Mapping[str, Sequence[int]],
    ratio: float,
    model: nn.Module,
    counted: Complexity | None,
) -> list[GroupRow]:
    """The rows with the parameters and MACs that leave when each Group alone is slimmed.

    Args:
        rows: one per Group, in any order.
        groups: of ``model``.
        kept: the plan.
        ratio: what Groups lose here that could lose units, and do not because nobody asked for it.
        model: the network before this step.
        counted: its operations, if they were counted. Groups of tokens (queries) get no MACs: how many there are shows
            in no width.
    """
    able = [group for group in groups if not group.protected and group.num_units > group.min_units]
    alike = {group.name: np.zeros(group.num_units) for group in able}
    plan = dict(Uniform()(able, alike, ratio))
    plan |= {name: units for name, units in kept.items() if name in plan and len(units) < alike[name].size}
    params = savings(able, plan, Params(model))
    macs = {} if counted is None else savings(able, plan, Macs(model, _no_run, counted))
    macs = {name: saved for name, saved in macs.items() if saved}
    return [
        replace(row, params_saved=_whole(params.get(row.name)), macs_saved=_whole(macs.get(row.name))) for row in rows
    ]


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _no_run(model: nn.Module) -> None:
    raise RuntimeError('the network was counted already')
