"""What a sensitivity sweep found, to look at: a heat map, and a page with it and a table that sorts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vadslim.analysis import html_page
from vadslim.analysis.heat_map import LINEAR, heat_map, percent
from vadslim.analysis.html_page import Picture
from vadslim.analysis.metrics import family
from vadslim.pruning import rules_origin
from vadslim.pruning.sensitivity import Row, Sensitivity, directions, increase


def read_sensitivity(path: Path) -> Sensitivity:
    """What ``sensitivity.json`` holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else; one line.
    """
    text = path.read_text(encoding='utf-8')
    try:
        return Sensitivity.from_dict(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: is not what sensitivity.py has written ({error})') from None


def sensitivity_picture(found: Sensitivity, larger: Mapping[str, bool]) -> Picture:
    """The heat map: Groups by ratios, a panel per metric.

    Args:
        found: the measurements.
        larger: the metrics that are drawn, and whether larger values are better.
    """
    rows = list(dict.fromkeys(row.group for row in found.rows))
    ratios = sorted({row.ratio for row in found.rows})
    panels = {}
    for name in larger:
        values = np.full((len(rows), len(ratios)), np.nan)
        for row in found.rows:
            values[rows.index(row.group), ratios.index(row.ratio)] = _change(found, row, name, larger)
        panels[f'{name}\n{_value(found, name)} as it is'] = values
    title = f'Sensitivity: change of the metrics in per cent, each Group slimmed alone, on {found.samples} samples'
    labels = [f'{name} ({found.groups[name][1]})' for name in rows]
    png = heat_map(labels, [f'{ratio:g}' for ratio in ratios], panels, title)
    what = (
        f'Heat map: how much each of {len(rows)} Groups, slimmed alone, changes the metrics; the table has the numbers'
    )
    return Picture(what, png, 'whole')


def picture_of_rules(rules: Path | None, name: str) -> dict[str, Picture]:
    """The heat map of the measurements that a file of rules was made from, if they are still there.

    Args:
        rules: of ``sensitivity.py --to-rules``, or by hand; None is no file.
        name: of the picture's file.

    Returns:
        ``{name: picture}``, or nothing.
    """
    try:
        origin = None if rules is None else rules_origin(rules)
        if origin is None:
            return {}
        found = read_sensitivity(origin.file)
    except (OSError, ValueError):
        return {}  # it was moved, or is another's by now: the rules hold without it
    larger = {metric: better for metric, better in origin.metrics.items() if metric in found.baseline}
    larger = larger or directions(metric for metric, value in found.baseline.items() if math.isfinite(value))
    return {name: sensitivity_picture(found, larger)} if found.rows and larger else {}


def render_sensitivity(
    found: Sensitivity, larger: Mapping[str, bool], settings: Mapping[str, Any], picture: Picture
) -> str:
    """The page.

    Args:
        found: the measurements.
        larger: the metrics that count, and whether larger values are better.
        settings: what was asked for.
        picture: of ``sensitivity_picture``.
    """
    rows = []
    for row in found.rows:
        changes = [_change(found, row, name, larger) for name in larger]
        kind, units = found.groups[row.group]
        values = [f'{row.metrics[name]:.4g}' for name in larger]
        worst = float(np.max(changes))
        rows.append((row, kind, units, _cell(worst), [(*_cell(c), v) for c, v in zip(changes, values)]))
    return html_page.render(
        _PAGE,
        title=settings.get('config', 'network'),
        settings=html_page.settings_rows(settings),
        samples=found.samples,
        baseline=[(name, _value(found, name), 'more' if better else 'less') for name, better in larger.items()],
        groups=len({row.group for row in found.rows}),
        rows=rows,
        picture=picture,
    )


def _change(found: Sensitivity, row: Row, name: str, larger: Mapping[str, bool]) -> float:
    return increase(found.baseline[name], row.metrics.get(name, math.nan), larger[name])


def _value(found: Sensitivity, name: str) -> str:
    """A metric of the network as it is, with its unit."""
    unit = family(name).unit
    return f'{found.baseline[name]:.3g}{f" {unit}" if unit == "m" else ""}'


def _cell(change: float) -> tuple[str, str, str]:
    """(number to sort by, text, colour: the heat map's, laid over the page's) of a relative change."""
    if math.isnan(change):
        return '', 'not known', 'none'
    exact = repr(change).replace('inf', '1e999')  # which a browser reads as infinite
    strength = 0.5 * math.log1p(min(abs(change), 1.0) / LINEAR) / math.log1p(1 / LINEAR)
    return exact, f'{percent(change)}%', f'rgb({"214 40 50" if change > 0 else "40 110 190"} / {strength:.2f})'


_PAGE = """{% extends 'page' %}
{% from 'cells' import pairs, show, table %}
{% block title %}{{ title }}, sensitivity{% endblock %}
{% block body %}
<h1>{{ title }}: what each Group costs, slimmed alone</h1>
<p>{{ groups }} Groups were slimmed one at a time, without training, and the network evaluated on {{ samples }} samples.
The network as it is:</p>
<div class="cards">
{% for name, value, better in baseline %}
<div class="card"><span class="soft">{{ name | breakable }}</span><b>{{ value }}</b>
<span class="soft">{{ better }} is better</span></div>
{% endfor %}
</div>
<h2>Heat map</h2>
<div class="pictures">
{{ show(picture) }}
</div>
<h2>Points</h2>
<p class="soft">Changes are relative to the network as it is; + is worse, whichever way the metric counts. The worst is
that of the metric that suffers most. Headings sort (a click, or Enter); sensitivity.csv has the exact numbers.</p>
{% set ns = namespace(columns=[('Group', 'name'), ('kind', 'kind'), ('units', ''), ('ratio', ''), ('gone', ''),
 ('worst', '')]) %}
{% for name, _, _ in baseline %}{% set ns.columns = ns.columns + [(name | breakable, 'metric')] %}{% endfor %}
{% call table('Points', ns.columns) %}
{% for row, kind, units, worst, changes in rows %}
<tr><th scope="row" class="name">{{ row.group | breakable }}</th><td class="kind">{{ kind }}</td><td>{{ units }}</td>
<td>{{ '%g' | format(row.ratio) }}</td><td>{{ row.removed }}</td>
<td data-v="{{ worst[0] }}" style="background: {{ worst[2] }}">{{ worst[1] }}</td>
{% for exact, change, colour, value in changes %}
<td data-v="{{ exact }}" style="background: {{ colour }}">{{ change }}<br><small>{{ value }}</small></td>
{% endfor %}
</tr>
{% endfor %}
{% endcall %}
<h2>Settings</h2>
{{ pairs('Settings', settings) }}
<p class="soft">vadslim {{ version }}; sensitivity.json has the same numbers for programs.</p>
{% endblock %}
"""
