"""The report of a slimming as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from vadslim.analysis import html_page
from vadslim.analysis.html_page import Picture, left
from vadslim.analysis.layer_sizes import LayerSize
from vadslim.analysis.numbers import human
from vadslim.analysis.report import Report


def render(
    report: Report,
    layers: Sequence[LayerSize],
    pictures: Sequence[Picture],
    levels: Markup | str = '',
) -> str:
    """The page.

    Args:
        report: what the page says.
        layers: the rows of its longest table.
        pictures: in the order of the page.
        levels: what ``level_report`` says of an iterative pruning, as HTML.
    """
    cut = [row for row in report.groups if row.kept < row.num_units]
    return html_page.render(
        _PAGE,
        title=report.settings.get('config', 'network'),
        settings=html_page.settings_rows(report.settings),
        totals=list(_totals(report)),
        conditions=list(_conditions(report)),
        levels=levels,
        pictures=pictures,
        groups=cut,
        saved=any(row.params_saved is not None for row in cut),
        possible=[row for row in report.groups if row.kept == row.num_units and row.params_saved],
        whole=_reasons(report),
        num_groups=len(report.groups),
        layers=layers,
        widest=max((layer.width_out_before for layer in layers), default=1),
        counted=any(layer.macs_before is not None for layer in layers),
        notes=report.notes,
        seconds=[(name, f'{value:.1f} s') for name, value in report.seconds.items()],
    )


def _totals(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """(what, before, after, what is left) of everything that was measured."""
    before, after, target = report.before, report.after, report.target

    def row(name: str, old: float | None, new: float | None, unit: str = '') -> Iterator[tuple[str, str, str, str]]:
        if old is not None and new is not None:
            shown = [f'{n:.1f} ms' if unit == 'ms' else human(n, unit) for n in (old, new)]
            yield name, shown[0], shown[1], left(new, old)

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


_PAGE = """{% extends 'page' %}
{% from 'cells' import number, pairs, show, table %}
{% block title %}{{ title }}, slimmed{% endblock %}
{% block body %}
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
{{ levels }}
{% if pictures %}
<h2>Where it went</h2>
<div class="pictures">
{% for picture in pictures %}
{{ show(picture) }}
{% endfor %}
</div>
{% endif %}
<h2>Groups: {{ groups | length }} of {{ num_groups }} lose units</h2>
{% if groups %}
<p class="soft">Headings sort (a click, or Enter).
{%- if saved %} Saved: what leaves when this Group alone is slimmed as here.{% endif %}</p>
{% set columns = [('Group', 'name'), ('kind', 'kind'), ('kept', ''), ('of', ''), ('left', '')] %}
{% call table('Groups that lose units', columns + ([('params saved', ''), ('MACs saved', '')] if saved else [])) %}
{% for row in groups %}
<tr><th scope="row" class="name">{{ row.name | breakable }}</th><td class="kind">{{ row.kind }}</td>
<td>{{ row.kept }}</td><td>{{ row.num_units }}</td>
<td data-v="{{ row.kept / row.num_units }}">{{ row.kept | left(row.num_units) }}</td>
{% if saved %}{{ number(row.params_saved) }}{{ number(row.macs_saved) }}{% endif %}</tr>
{% endfor %}
{% endcall %}
{% endif %}
{% if possible %}
<h2>What others would save alone</h2>
{% set columns = [('Group', 'name'), ('kind', 'kind'), ('units', ''), ('params', ''), ('MACs', '')] %}
{% call table('What others would save alone', columns) %}
{% for row in possible %}
<tr><th scope="row" class="name">{{ row.name | breakable }}</th><td class="kind">{{ row.kind }}</td>
<td>{{ row.num_units }}</td>{{ number(row.params_saved) }}{{ number(row.macs_saved) }}</tr>
{% endfor %}
{% endcall %}
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
{% set columns = [('layer', 'name'), ('kind', 'kind'), ('reads', ''), ('after', ''), ('makes', ''), ('after', ''),
 ('width left', 'grow'), ('params', ''), ('after', '')] + ([('MACs', ''), ('after', '')] if counted else []) %}
{% call table('Layers', columns, 'layers') %}
{% for row in layers %}
<tr{% if not row.changed %} class="same"{% endif %}><th scope="row" class="name">{{ row.name | breakable }}</th>
<td class="kind">{{ row.kind }}</td>{{ number(row.width_in_before, True) }}{{ number(row.width_in_after, True) }}
{{ number(row.width_out_before, True) }}{{ number(row.width_out_after, True) }}
<td data-v="{{ row.width_out_after / row.width_out_before }}"><span class="bar" style="width:
 {{ (100 * row.width_out_before / widest) | round(1) }}%"><i style="width:
 {{ (100 * row.width_out_after / row.width_out_before) | round(1) }}%"></i></span></td>
{{ number(row.params_before) }}{{ number(row.params_after) }}
{% if counted %}{{ number(row.macs_before) }}{{ number(row.macs_after) }}{% endif %}</tr>
{% endfor %}
{% endcall %}
{% endif %}
<h2>Settings</h2>
{{ pairs('Settings', settings) }}
{% if seconds %}
<h2>Time taken</h2>
{{ pairs('Time taken', seconds) }}
{% endif %}
<p class="soft">vadslim {{ version }}; report.json has the same numbers for programs.</p>
{% endblock %}
"""
