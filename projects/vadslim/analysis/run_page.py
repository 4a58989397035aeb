"""What one forward of a network costs, as one HTML page: totals, parts, and a table of modules that sorts."""

from __future__ import annotations

from collections.abc import Iterator

from vadslim.analysis import html_page
from vadslim.analysis.complexity import human
from vadslim.analysis.run_report import RunReport
from vadslim.analysis.run_tables import remarks, timing


def render_run(report: RunReport) -> str:
    """The page."""
    tables = [('Parts', 'part', report.parts)] if report.parts else []
    return html_page.render(
        _PAGE,
        title=report.settings.get('config', report.total.kind),
        report=report,
        total=report.total,
        cards=list(_cards(report)),
        tables=[*tables, (f'Modules, {report.depth} deep', 'module', report.modules)],
        names=list(report.alternatives),
        timing=timing(report.latency) if report.latency else '',
        remarks=[line[0].upper() + line[1:] + '.' for line in remarks(report)],
        settings=html_page.settings_rows(report.settings),
    )


def _cards(report: RunReport) -> Iterator[tuple[str, str, str]]:
    """(what, how much, exactly) of the totals."""
    total = report.total
    yield 'Parameters', human(total.params), f'{total.params:,}'
    yield 'MACs', human(total.macs), f'{total.macs:,}'
    for name, alternative in report.alternatives.items():
        yield f'MACs {name}', human(alternative.macs), f'{alternative.macs:,}'
    yield 'Bilinear sampling, MACs', human(total.sampling_macs), f'{total.sampling_macs:,}'
    yield 'Activations', human(total.activations), f'{total.activations:,}'
    if total.ms is not None and report.latency:
        much = f'{total.ms:.3g} ms' if total.ms < 1000 else f'{total.ms / 1000:.3g} s'
        yield 'Latency', much, f'median of {report.latency["repeats"]}'


_PAGE = """{% extends 'page' %}
{% from 'cells' import number, pairs, table %}
{% macro part(value, whole, text) %}
<td data-v="{{ value }}">{% if value %}{{ text }}<span class="bar"><i style="width:
 {{ (100 * value / whole) | round(1) if whole else 0 }}%; max-width: 100%"></i></span>{% endif %}</td>
{%- endmacro %}
{% macro amount(value) %}{{ number(value or none) }}{%- endmacro %}
{% block title %}{{ title }}, what it costs{% endblock %}
{% block body %}
<h1>{{ title }}: what one forward costs</h1>
<p class="soft">{{ total.kind }}, one forward of {{ report.example }}.
{%- if timing %} Times: {{ timing }}.{% endif %}</p>
<div class="cards">
{% for what, much, exact in cards %}
<div class="card"><span class="soft">{{ what }}</span><b>{{ much }}</b>{{ exact }}</div>
{% endfor %}
</div>
{% for line in remarks %}
<p>{{ line }}</p>
{% endfor %}
{% for label, heading, rows in tables %}
<h2>{{ label }}</h2>
{% if loop.last %}
<p class="soft">Each with everything below it. Headings sort (a click, or Enter); bars are shares of the whole. Sampling
is not among the MACs. Activations are elements of the results of products and samplings.</p>
{% endif %}
{% set ns = namespace(columns=[(heading, 'name')] + ([('type', 'kind')] if heading == 'module' else [])
 + [('params', ''), ('MACs', 'grow')]) %}
{% for name in names %}{% set ns.columns = ns.columns + [('MACs ' + name, 'metric')] %}{% endfor %}
{% set ns.columns = ns.columns + [('sampling', ''), ('activations', '')] %}
{% if heading == 'module' %}{% set ns.columns = ns.columns + [('calls', '')] %}{% endif %}
{% if timing %}{% set ns.columns = ns.columns + [('ms', 'grow')] %}{% endif %}
{% call table(label, ns.columns) %}
{% for row in rows %}
<tr><th scope="row" class="name">{{ row.name | breakable }}</th>
{% if heading == 'module' %}<td class="kind">{{ row.kind }}</td>{% endif %}
{{ amount(row.params) }}{{ part(row.macs, total.macs, row.macs | human) }}
{% for name in names %}{{ amount(row.alternatives[name]) }}{% endfor %}
{{ amount(row.sampling_macs) }}{{ amount(row.activations) }}
{% if heading == 'module' %}<td data-v="{{ row.calls }}">{{ row.calls or '' }}</td>{% endif %}
{% if timing %}{% if row.ms is none %}<td data-v=""></td>
{% else %}{{ part(row.ms, total.ms, ('%.1f' if row.ms >= 100 else '%.2f') | format(row.ms)) }}{% endif %}
{% endif %}</tr>
{% endfor %}
{% endcall %}
{% endfor %}
{% for name, other in report.alternatives.items() %}
<h2>{{ name | capitalize }}: what differs</h2>
{% call table(name + ': what differs', [('why', 'text'), ('MACs', ''), ('sampling', '')]) %}
{% for why, macs, sampling in other.differences %}
<tr><th scope="row" class="text">{{ why }}</th>{{ amount(macs) }}{{ amount(sampling) }}</tr>
{% endfor %}
{% endcall %}
{% endfor %}
<h2>Settings</h2>
{{ pairs('Settings', settings) }}
<p class="soft">vadslim {{ version }}; run_analysis.json has the same numbers for programs.</p>
{% endblock %}
"""
