"""The report as one HTML page that needs nothing else: no network, no script but a few lines to sort tables."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from vadslim import __version__
from vadslim.analysis.complexity import human
from vadslim.analysis.layer_sizes import LayerSize
from vadslim.analysis.report import Report


def render(report: Report, layers: Sequence[LayerSize], pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        report: what the page says.
        layers: the rows of its longest table.
        pictures: what they show -> PNG files.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(human=human, breakable=_breakable, left=_left)
    cut = [row for row in report.groups if row.kept < row.num_units]
    return environment.from_string(_PAGE).render(
        title=report.settings.get('config', 'network'),
        version=__version__,
        settings=list(_settings(report.settings)),
        totals=list(_totals(report)),
        conditions=list(_conditions(report)),
        pictures=[(title, title.startswith('Width'), b64encode(png).decode()) for title, png in pictures.items()],
        groups=cut,
        saved=any(row.params_saved is not None for row in cut),
        possible=[row for row in report.groups if row.kept == row.num_units and row.params_saved],
        whole=_reasons(report),
        num_groups=len(report.groups),
        layers=layers,
        widest=max((layer.width_out_before for layer in layers), default=1),
        counted=any(layer.macs_before is not None for layer in layers),
        notes=report.notes,
        seconds=dict(report.seconds),
    )


def _breakable(name: str) -> Markup:
    """A dotted name that may break after each dot."""
    return Markup('.<wbr>').join(escape(part) for part in name.split('.'))


def _left(after: float | None, before: float | None) -> str:
    return '' if not before or after is None else f'{after / before:.1%}'


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if value is not None and value != []:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name.replace('_', ' '), text


def _totals(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """(what, before, after, what is left) of everything that was measured."""
    before, after, target = report.before, report.after, report.target

    def row(name: str, old: float | None, new: float | None, unit: str = '') -> Iterator[tuple[str, str, str, str]]:
        if old is not None and new is not None:
            shown = [f'{n:.1f} ms' if unit == 'ms' else human(n, unit) for n in (old, new)]
            yield name, shown[0], shown[1], _left(new, old)

    yield from row('Parameters', before.params, after.params)
    if before.complexity and after.complexity:
        yield from row('MACs', before.complexity.macs, after.complexity.macs)
        if before.complexity.sampling_macs:
            sampling = before.complexity.sampling_macs, after.complexity.sampling_macs
            yield from row('Bilinear sampling, MACs', *sampling)
    if before.latency and after.latency:
        yield from row('Latency', before.latency.median_ms, after.latency.median_ms, 'ms')
    if target:
        unit = 'ms' if target['cost'] == 'latency' else ''
        yield from row(f'{target["cost"]}, predicted', target['before'], target['predicted'], unit)
    yield from row('Checkpoint file', before.file_bytes, after.file_bytes, 'B')


def _conditions(report: Report) -> Iterator[str]:
    if report.example:
        yield f'One forward of {report.example}.'
    if report.before.latency and report.after.latency:
        old, new = report.before.latency, report.after.latency
        ranges = ' and '.join(f'{one.min_ms:.1f} to {one.max_ms:.1f} ms' for one in (old, new))
        how = f'median of {new.repeats} runs ({ranges})' if new.repeats > 1 else 'one run'
        yield f'Latency: {how} on {new.where}.'
    if report.target:
        target = report.target
        unit = ' ms' if target['cost'] == 'latency' else ''
        goal = f'{target["goal"]:.4g}{unit}' if unit else human(target['goal'])
        yield f'Target: {target["cost"]} of at most {goal}, reached at the ratio {target["ratio"]:.3f}.'
    if report.before.complexity and report.before.complexity.uncounted:
        yield f'Not counted: {", ".join(report.before.complexity.uncounted)}.'


def _reasons(report: Report) -> list[tuple[str, list[str]]]:
    """(reason, names) of the Groups that keep all their units, the most common reason first."""
    found: dict[str, list[str]] = {}
    for row in report.groups:
        if row.kept == row.num_units:
            found.setdefault(row.reason or 'nothing to remove', []).append(row.name)
    return sorted(found.items(), key=lambda item: -len(item[1]))


_PAGE = """{# a cell: people read the short form, sorting takes the exact one #}
{% macro number(value, exact=False) %}
<td data-v="{{ '' if value is none else value }}">{% if value is not none %}{{ value if exact else value | human }}
{%- endif %}</td>
{%- endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ title }}, slimmed</title>
<style>
:root { color-scheme: light; --line: #dbe1e7; --soft: #5d6b78; --before: #c9d1da; --after: #12718f }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 74rem; padding: 1rem; color: #1c2733; background: #fff;
 font: 15px/1.5 system-ui, 'DejaVu Sans', sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
p, ul { margin: .4rem 0 }
.soft { color: var(--soft); font-size: .88rem }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .7rem; margin: 1rem 0 }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem }
.card b { display: block; font-size: 1.6rem; line-height: 1.3 }
.bar { display: block; height: 6px; border-radius: 3px; background: var(--before) }
.bar i { display: block; height: 6px; border-radius: 3px; background: var(--after) }
.scroll { overflow: auto; max-height: 40rem; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { position: sticky; top: 0; vertical-align: bottom; background: #f3f6f8 }
th button { all: unset; cursor: pointer }
th button:focus-visible { outline: 2px solid var(--after) }
th[aria-sort=ascending] button::after { content: ' \\25B2' }
th[aria-sort=descending] button::after { content: ' \\25BC' }
.name { text-align: left; white-space: normal; min-width: 11rem; font-size: .82rem; overflow-wrap: anywhere }
@media (max-width: 40rem) { td.name { position: sticky; left: 0; background: #fff } }
.kind { text-align: left }
.grow { min-width: 7rem }
.plain { width: auto }
.plain th { background: none; font-weight: 400; color: var(--soft); text-align: left }
.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem;
 align-items: start }
.pictures figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .6rem; overflow-x: auto }
.pictures img { display: block; width: 100%; height: auto }
.pictures .wide { grid-column: 1 / -1 }
.pictures .wide img { min-width: 44rem }
details { border-bottom: 1px solid var(--line); padding: .35rem 0 }
summary { cursor: pointer }
details ul { padding-left: 1.4rem; font-size: .88rem; overflow-wrap: anywhere }
.changed-only .same { display: none }
@media print {
 body { font-size: 10px; max-width: none; padding: 0 }
 .scroll, .pictures figure { overflow: visible; max-height: none; border: 0 }
 thead th { position: static }
 .pictures .wide img { min-width: 0 }
 th, td { padding: .12rem .3rem; white-space: normal }
 .name { min-width: 0; position: static }
 .card, tr, figure { break-inside: avoid }
 h2 { break-after: avoid }
 thead { display: table-header-group }
 .screen { display: none }
 * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
</style>
</head>
<body>
<h1>{{ title }}: before and after slimming</h1>
<div class="cards">
{% for what, before, after, left in totals %}
<div class="card"><span class="soft">{{ what }}</span><b>{{ left or '-' }}</b>{{ before }} &rarr; {{ after }}
<span class="bar"><i style="width: {{ left or '0' }}; max-width: 100%"></i></span></div>
{% endfor %}
</div>
{% for line in conditions %}
<p class="soft">{{ line }}</p>
{% endfor %}
{% if notes %}
<h2>Notes</h2>
<ul>
{% for note in notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}
{% if pictures %}
<h2>Where it went</h2>
<div class="pictures">
{% for what, wide, png in pictures %}
<figure{% if wide %} class="wide"{% endif %}><img alt="{{ what }}" src="data:image/png;base64,{{ png }}">
</figure>
{% endfor %}
</div>
{% endif %}
<h2>Groups: {{ groups | length }} of {{ num_groups }} lose units</h2>
{% if groups %}
<p class="soft">A click on a heading sorts.
{%- if saved %} Saved: what leaves when this Group alone is slimmed as here.{% endif %}</p>
<div class="scroll"><table class="sortable">
<thead><tr><th class="name">Group</th><th class="kind">kind</th><th>kept</th><th>of</th><th>left</th>
{% if saved %}<th>params saved</th><th>MACs saved</th>{% endif %}</tr></thead>
<tbody>
{% for row in groups %}
<tr><td class="name">{{ row.name | breakable }}</td><td class="kind">{{ row.kind }}</td><td>{{ row.kept }}</td>
<td>{{ row.num_units }}</td><td data-v="{{ row.kept / row.num_units }}">{{ row.kept | left(row.num_units) }}</td>
{% if saved %}{{ number(row.params_saved) }}{{ number(row.macs_saved) }}{% endif %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if possible %}
<h2>What others would save alone</h2>
<div class="scroll"><table class="sortable">
<thead><tr><th class="name">Group</th><th class="kind">kind</th><th>units</th><th>params</th><th>MACs</th></tr></thead>
<tbody>
{% for row in possible %}
<tr><td class="name">{{ row.name | breakable }}</td><td class="kind">{{ row.kind }}</td><td>{{ row.num_units }}</td>
{{ number(row.params_saved) }}{{ number(row.macs_saved) }}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if whole %}
<h2>Groups that keep all their units, and why</h2>
{% for reason, names in whole %}
<details><summary>{{ names | length }}: {{ reason }}</summary>
<ul>
{% for name in names %}
<li>{{ name | breakable }}</li>
{% endfor %}
</ul></details>
{% endfor %}
{% endif %}
{% if layers %}
<h2>Layers</h2>
<p class="soft">Widths are channels or features read and made; of an attention its embedding and the values of all
heads, of an embedding its rows and their width. layers.csv has the exact numbers.</p>
<p class="screen"><label><input type="checkbox" id="changed"> only those that changed</label></p>
<div class="scroll"><table class="sortable" id="layers">
<thead><tr><th class="name">layer</th><th class="kind">kind</th><th>reads</th><th>after</th><th>makes</th><th>after</th>
<th class="grow">width left</th><th>params</th><th>after</th>{% if counted %}<th>MACs</th><th>after</th>{% endif %}</tr>
</thead>
<tbody>
{% for row in layers %}
<tr{% if not row.changed %} class="same"{% endif %}><td class="name">{{ row.name | breakable }}</td>
<td class="kind">{{ row.kind }}</td>{{ number(row.width_in_before, True) }}{{ number(row.width_in_after, True) }}
{{ number(row.width_out_before, True) }}{{ number(row.width_out_after, True) }}
<td data-v="{{ row.width_out_after / row.width_out_before }}"><span class="bar" style="width:
 {{ (100 * row.width_out_before / widest) | round(1) }}%"><i style="width:
 {{ (100 * row.width_out_after / row.width_out_before) | round(1) }}%"></i></span></td>
{{ number(row.params_before) }}{{ number(row.params_after) }}
{% if counted %}{{ number(row.macs_before) }}{{ number(row.macs_after) }}{% endif %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<h2>Settings</h2>
<table class="plain">
{% for name, value in settings %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% if seconds %}
<h2>Time taken</h2>
<table class="plain">
{% for name, value in seconds.items() %}
<tr><th>{{ name }}</th><td>{{ '%.1f' | format(value) }} s</td></tr>
{% endfor %}
</table>
{% endif %}
<p class="soft">vadslim {{ version }}; report.json has the same numbers for programs.</p>
<script>
document.querySelectorAll('table.sortable').forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const rising = head.getAttribute('aria-sort') === 'descending' || (column < 2 && !head.hasAttribute('aria-sort'));
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
      const order = (a, b) => column < 2 ? a.localeCompare(b, 'en', {numeric: true}) : a - b;
      body.append(...[...body.rows].sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        return x === '' || y === '' ? (x === '') - (y === '') : order(x, y) * (rising ? 1 : -1);
      }));
    };
  });
});
const box = document.getElementById('changed'), layers = document.getElementById('layers');
if (box) box.onchange = () => layers.classList.toggle('changed-only', box.checked);
</script>
</body>
</html>
"""
