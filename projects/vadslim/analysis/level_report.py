"""The levels of an iterative pruning: a table, curves, and the part of the page that shows both.

A level is a mapping with these keys; all but the first three may be left out or None, which is 'not known':

======================= ===============================================================================================
``level``               0 is the network before the first one
``params``, ``macs``    of one forward, MACs; None where they were not counted
``latency_ms``          of one forward, milliseconds
``metrics``             name -> value, as the evaluators gave them
``ratio``               what was asked for: the fraction of the units that is gone since level 0
``holds``               whether it keeps to the limits that were set; None: none were set, or nothing was measured
``why``                 one line: by what it does not hold
``folder``              where it is, seen from the report; '' for the network before
======================= ===============================================================================================
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vadslim.analysis import html_page
from vadslim.analysis.html_page import Picture
from vadslim.analysis.metrics import Family, family, in_order, is_detail
from vadslim.analysis.numbers import human
from vadslim.analysis.plots import BEFORE, GRID, LINES, TEXT, new_figure, to_png
from vadslim.pruning.sensitivity import is_cost

Level = Mapping[str, Any]

COSTS = {'params': 'parameters', 'macs': 'MACs', 'latency_ms': 'latency'}
PANELS, CURVES = 5, 6  # of metrics, and in each
_LEGEND: dict[str, Any] = {'fontsize': 8, 'title_fontsize': 8, 'alignment': 'left'}


@dataclass(frozen=True)
class LevelReport:
    """What is written of the levels.

    Attributes:
        table: the text of ``levels.csv``.
        picture: ``levels.png``.
        section: a part of a page, with a heading and the picture.
    """

    table: str
    picture: bytes
    section: Markup


def level_report(levels: Sequence[Level]) -> LevelReport:
    """Everything that is said of the levels of an iterative pruning.

    Args:
        levels: in order, the dense network first.

    Raises:
        ValueError: there is none, or one has no number or no parameters.
    """
    if not levels or any(level.get('level') is None or not level.get('params') for level in levels):
        raise ValueError('levels: at least one is needed, and level and params of each')
    picture = levels_picture(levels)
    return LevelReport(to_csv(levels), picture, section(levels, picture))


def result(levels: Sequence[Level]) -> int:
    """The index of the level that counts: the last one before the first that does not hold."""
    lost = (number for number, level in enumerate(levels) if level.get('holds') is False)
    return max(next(lost, len(levels)) - 1, 0)


def outcome(levels: Sequence[Level], number: int) -> str:
    """What became of a level, in words."""
    last = result(levels)
    if number > last:
        return 'rolled back'
    if number == last:
        return 'the result' if number else 'the result: nothing was pruned'
    return 'the network before' if not number else 'pruned on'


def metric_names(levels: Iterable[Level]) -> list[str]:
    """All metrics that any level has a number of: L2 and collisions first."""
    found = dict.fromkeys(name for level in levels for name, v in (level.get('metrics') or {}).items() if _known(v))
    return in_order(found)


def to_csv(levels: Sequence[Level]) -> str:
    """One line per level; an empty cell is 'not known'."""
    names = metric_names(levels)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns = ('level', 'ratio', *COSTS)
    writer.writerow([*columns, *names, 'outcome', 'why', 'folder'])
    for number, level in enumerate(levels):
        metrics = level.get('metrics') or {}
        values = [*map(level.get, columns), *map(metrics.get, names)]
        words = [outcome(levels, number), level.get('why') or '', level.get('folder') or '']
        writer.writerow([*(value if _known(value) else '' for value in values), *words])
    return text.getvalue()


def section(levels: Sequence[Level], picture: bytes | None = None) -> Markup:
    """A heading, the outcome in a sentence, a table with a line per level, and the picture."""
    last = result(levels)
    names = [name for _, _, of_family in _panels(levels) for name in of_family]
    costs = [cost for cost in COSTS if any(_known(level.get(cost)) for level in levels)]
    rows = []
    for number, level in enumerate(levels):
        metrics = level.get('metrics') or {}
        rows.append(
            {
                'number': level['level'],
                'class': 'result' if number == last else 'lost' if number > last else '',
                'outcome': outcome(levels, number),
                'ratio': level.get('ratio'),
                'costs': [_cost(level, levels[0], cost) for cost in costs],
                'metrics': [(v, f'{v:.4g}') if _known(v := metrics.get(name)) else ('', '') for name in names],
                'why': level.get('why') or '',
                'folder': level.get('folder') or '',
            }
        )
    lost = levels[last + 1] if last + 1 < len(levels) else None
    html = html_page.render(
        _SECTION,
        rows=rows,
        costs=[COSTS[cost] for cost in costs],
        names=names,
        ratios=any(_known(level.get('ratio')) for level in levels),
        picture=picture and Picture('Costs and metrics level by level', picture, 'wide'),
        timed='latency_ms' in costs,
        number=levels[last]['level'],
        pruned=len(levels) - 1,
        lost=lost and {'level': lost['level'], 'why': (lost.get('why') or '').rstrip('.')},
        shown=len(names),
        known=len(metric_names(levels)),
    )
    return Markup(html)


def levels_picture(levels: Sequence[Level]) -> bytes:
    """Curves over the levels, as PNG: costs in per cent of the dense network, and a panel per kind of metric."""
    panels = _panels(levels)
    columns = min(len(panels) + 1, 2)
    rows = math.ceil((len(panels) + 1) / columns)
    figure, axes = new_figure(5.2 * columns, 0.3 + 3.3 * rows, rows, columns)
    axes = list(axes.flat) if columns * rows > 1 else [axes]
    curves = {name: [_share(level, levels[0], cost) for level in levels] for cost, name in COSTS.items()}
    _draw(axes[0], curves, levels, 'Costs', '% of the dense network')
    for panel, (title, unit, names) in zip(axes[1:], panels):
        curves = {name: [(level.get('metrics') or {}).get(name) for level in levels] for name in names}
        better = {is_cost(name) for name in names}
        hint = {frozenset({True}): ', less is better', frozenset({False}): ', more is better'}
        _draw(panel, curves, levels, f'{title}{hint.get(frozenset(better), "")}', unit)
    for panel in axes[1 + len(panels) :]:
        panel.axis('off')
    figure.suptitle('Level by level', x=0.01, ha='left', fontweight='bold')
    return to_png(figure)


def _draw(axes: Any, curves: Mapping[str, list[Any]], levels: Sequence[Level], title: str, unit: str) -> None:
    """One panel. What was rolled back is beyond a line, with hollow marks."""
    last, prefix = result(levels), _common(list(curves))
    for number, (name, values) in enumerate(curves.items()):
        points = [(x, value) for x, value in enumerate(values) if _known(value)]
        if points:
            style = {
                'color': LINES[number % len(LINES)],
                'marker': 'osD^vP'[number % 6],
                'markersize': 5,
                'clip_on': False,
            }
            xs, ys = zip(*points)
            axes.plot(xs, ys, linestyle=('-', '--', '-.', ':')[number % 4], label=name[len(prefix) :], **style)
            beyond = [point for point in points if point[0] > last]
            if beyond:
                style['markerfacecolor'] = 'white'
                axes.plot(*zip(*beyond), linestyle='none', zorder=3, **style)
    if last + 1 < len(levels):
        axes.axvspan(last + 0.5, len(levels) - 0.5, color=BEFORE, alpha=0.35, linewidth=0, zorder=0)
        axes.axvline(last + 0.5, color=TEXT, linewidth=0.8, linestyle=':')
    notes = {0: 'dense', last: 'result', **dict.fromkeys(range(last + 1, len(levels)), 'rolled\nback')}
    ticks = [f'{level["level"]}\n{notes.get(x, "")}' for x, level in enumerate(levels)]
    axes.set_xticks(range(len(levels)), ticks if len(levels) < 9 else [level['level'] for level in levels])
    axes.set_xlim(-0.5, len(levels) - 0.5)
    known = [value for values in curves.values() for value in values if _known(value)] or [0]
    axes.set_ylim(min(0, *known), 1.06 * max(known) if max(known) > 0 else 1)
    axes.set_ylabel(unit)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, loc='left', fontsize=10)
    axes.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False, **_LEGEND, title=prefix or None)


def _panels(levels: Sequence[Level]) -> list[tuple[str, str, list[str]]]:
    """(title, unit, names) of the metrics that are shown."""
    found: dict[Family, list[str]] = {}
    names = metric_names(levels)
    for name in [name for name in names if not is_detail(name)] or names:
        found.setdefault(family(name), []).append(name)
    return [(title, unit, names[:CURVES]) for (title, unit), names in list(found.items())[:PANELS]]


def _common(names: Sequence[str]) -> str:
    """What all names begin with, up to a separator; '' of less than two."""
    if len(names) < 2:
        return ''
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[: max(first.rfind(separator, 0, length) for separator in '_/.') + 1]


def _known(value: Any) -> bool:
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def _share(level: Level, dense: Level, cost: str) -> float | None:
    value, whole = level.get(cost), dense.get(cost)
    return 100 * value / whole if value is not None and whole else None


def _cost(level: Level, dense: Level, cost: str) -> tuple[Any, str, str]:
    """(exact, short, per cent of the dense network) of one cost."""
    value, share = level.get(cost), _share(level, dense, cost)
    if value is None:
        return '', '', ''
    short = f'{value:.1f} ms' if cost == 'latency_ms' else human(value)
    return value, short, '' if share is None else f'{share:.0f}%'


_SECTION = """{% from 'cells' import show, table %}
<h2>Level by level</h2>
<p>{% if number %}The result is level {{ number }} of {{ pruned }}.{% else %}Nothing was pruned.{% endif %}
{%- if lost %} Level {{ lost.level }} was rolled back{% if lost.why %}: {{ lost.why }}{% endif %}.{% endif %}</p>
<p class="soft">Per cents are of the dense network, level 0.
{%- if timed %} Levels were timed at different times: latencies are rougher than the one above.{% endif %}
{%- if shown < known %} {{ known - shown }} more metrics stand in levels.csv.{% endif %}</p>
{% set columns = [('level', ''), ('outcome', 'text')] + ([('ratio', '')] if ratios else []) %}
{% set ns = namespace(columns=columns) %}
{% for cost in costs %}{% set ns.columns = ns.columns + [(cost, ''), ('left', '')] %}{% endfor %}
{% for name in names %}{% set ns.columns = ns.columns + [(name | breakable, 'metric')] %}{% endfor %}
{% call table('Level by level', ns.columns + [('folder', 'kind')]) %}
{% for row in rows %}
<tr{% if row.class %} class="{{ row.class }}"{% endif %}><th scope="row">{{ row.number }}</th>
<td class="text">{{ row.outcome }}{% if row.why %}<br><small>{{ row.why }}</small>{% endif %}</td>
{% if ratios %}<td>{{ '' if row.ratio is none else '%.3g' | format(row.ratio) }}</td>{% endif %}
{% for exact, short, share in row.costs %}<td data-v="{{ exact }}">{{ short }}</td>
<td data-v="{{ exact }}">{{ share }}</td>{% endfor %}
{% for exact, short in row.metrics %}<td data-v="{{ exact }}">{{ short }}</td>{% endfor %}
<td class="kind">{% if row.folder %}<a href="{{ row.folder | urlencode }}/report.html">{{ row.folder }}</a>{% endif %}
</td></tr>
{% endfor %}
{% endcall %}
{% if picture %}
<div class="levels">{{ show(picture) }}</div>
{% endif %}
"""
