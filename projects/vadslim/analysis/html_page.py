"""What all pages of vadslim have in common: one file that needs nothing else, and tables that sort.

A page is a Jinja template that extends ``page`` and imports the macros of ``cells``. There is no network access and no
script but a few lines that sort tables: by mouse or, each heading being a button, by keyboard.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from vadslim import __version__
from vadslim.analysis.numbers import human

if TYPE_CHECKING:
    from markupsafe import Markup


class Picture(NamedTuple):
    """A picture on a page.

    Attributes:
        what: it shows, for those who cannot see it.
        png: the file.
        style: '' for one among others, 'wide' for one that needs a line of its own, 'whole' for one that is as wide as
            its text needs.
    """

    what: str
    png: bytes
    style: str = ''


def render(template: str, **values: Any) -> str:
    """Fills in a template; what it prints is escaped, and a value that is missing is an error.

    Args:
        template: Jinja's text. ``{% extends 'page' %}`` makes it a page, with the blocks ``title``,
            ``body`` and ``style``.
        values: what it names.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined  # late: not every command writes a page

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({'page': _PAGE, 'cells': _CELLS}),
    )
    environment.filters.update(human=human, breakable=breakable, left=left, embedded=_embedded, readable=_readable)
    return environment.from_string(template).render(version=__version__, **values)


def breakable(name: str) -> Markup:
    """A name that may break after each of its parts."""
    from markupsafe import Markup, escape

    return Markup('<wbr>').join(escape(part) for part in re.split(r'(?<=[./_])', name))


def left(after: float | None, before: float | None) -> str:
    """What is left, in per cent; '' where that is not known."""
    return '' if not before or after is None else f'{after / before:.1%}'


def settings_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of the settings that say something."""
    given = {name.replace('_', ' '): value for name, value in settings.items() if value is not None and value != []}
    return [(name, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for name, v in given.items()]


def _readable(png: bytes) -> int:
    """The width in pixels at which the letters of a picture of 120 dpi can just be read; a PNG tells its own."""
    return int(0.68 * int.from_bytes(png[16:20], 'big'))


def _embedded(png: bytes) -> str:
    return f'data:image/png;base64,{b64encode(png).decode()}'


#: Macros: a cell, a sortable table's frame, a list of name and value.
_CELLS = """{# a cell: people read the short form, sorting takes the exact one #}
{% macro number(value, exact=False) %}
<td data-v="{{ '' if value is none else value }}">{% if value is not none %}{{ value if exact else value | human }}
{%- endif %}</td>
{%- endmacro %}
{# columns: (heading, class) each; '' is a number, 'name' and 'kind' are texts #}
{% macro table(label, columns, id='') %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ label }}"><table class="sortable"
{%- if id %} id="{{ id }}"{% endif %}>
<caption>{{ label }}</caption>
<thead><tr>{% for heading, class in columns %}
<th scope="col"{% if class %} class="{{ class }}"{% endif %}>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{{ caller() }}
</tbody></table></div>
{%- endmacro %}
{% macro pairs(label, rows) %}
<table class="plain">
<caption>{{ label }}</caption>
{% for name, value in rows %}
<tr><th scope="row">{{ name }}</th><td>{% if value | length > 160 %}
<details><summary>{{ value[:60] }}&hellip;</summary>{{ value }}</details>
{% else %}{{ value }}{% endif %}</td></tr>
{% endfor %}
</table>
{%- endmacro %}
{% macro show(picture) %}
<figure{% if picture.style %} class="{{ picture.style }}" tabindex="0"{% endif %}><img alt="{{ picture.what }}"
{%- if picture.style == 'whole' %} style="width: {{ picture.png | readable }}px"{% endif %} src="
{{- picture.png | embedded }}">
</figure>
{%- endmacro %}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{% block title %}{% endblock %}</title>
<style>
:root { color-scheme: light dark; --text: #1c2733; --page: #fff; --head: #f3f6f8; --line: #dbe1e7; --soft: #5d6b78;
 --before: #c9d1da; --after: #12718f }
@media screen and (prefers-color-scheme: dark) {
 :root { --text: #e3e8ed; --page: #14191f; --head: #202830; --line: #36414c; --soft: #a3afba; --before: #46525e;
  --after: #3fa9c9 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 74rem; padding: 1rem; color: var(--text); background: var(--page);
 font: 15px/1.5 system-ui, 'DejaVu Sans', sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
p, ul { margin: .4rem 0; overflow-wrap: anywhere }
a { color: var(--after) }
.soft { color: var(--soft); font-size: .88em }
small { font-size: .88em }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .7rem; margin: 1rem 0 }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem }
.card b { display: block; font-size: 1.6rem; line-height: 1.3 }
.plain details { border: 0; padding: 0 }
.bar { display: block; height: 6px; border-radius: 3px; background: var(--before) }
.bar i { display: block; height: 6px; border-radius: 3px; background: var(--after) }
.scroll { overflow: auto; max-height: 40rem; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
th, td { padding: .28rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { position: sticky; top: 0; z-index: 1; vertical-align: bottom; background: var(--head) }
tbody th { font-weight: 400 }
th button { all: unset; cursor: pointer; position: relative }
:focus-visible, th button:focus-visible { outline: 2px solid var(--after); outline-offset: 1px }
th button::after { position: absolute; left: 100% }
th[aria-sort=ascending] button::after { content: '\\25B4' / '' }
th[aria-sort=descending] button::after { content: '\\25BE' / '' }
.name { text-align: left; white-space: normal; min-width: 15rem; font-size: .82rem; overflow-wrap: break-word }
.kind { text-align: left }
.text { text-align: left; white-space: normal; min-width: 14rem }
th.metric { white-space: normal; min-width: 5.5rem }
.grow { min-width: 7rem }
.result { font-weight: 700 }
.result th { font-weight: 700 }
.lost { color: var(--soft) }
@media (max-width: 40rem) {
 .name { min-width: 9rem; max-width: 45vw }
 tbody .name { position: sticky; left: 0; background: var(--page) }
}
.plain { width: auto }
.plain th { font-weight: 400; color: var(--soft); text-align: left; vertical-align: top }
.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem;
 align-items: start }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .6rem; overflow-x: auto;
 background: #fff }
figure img { display: block; width: 100%; height: auto }
.wide { grid-column: 1 / -1 }
.wide img { min-width: 44rem }
.levels figure { margin-top: 1rem }
.whole { grid-column: 1 / -1 }
.whole img { max-width: none; margin: 0 auto }
details { border-bottom: 1px solid var(--line); padding: .35rem 0 }
summary { cursor: pointer }
details ul { padding-left: 1.4rem; font-size: .88rem; overflow-wrap: anywhere }
.changed-only .same { display: none }
@media print {
 body { font-size: 10px; max-width: none; padding: 0 1px }
 .scroll, figure { overflow: visible; max-height: none; border: 0 }
 thead th { position: static }
 .pictures { grid-template-columns: 1fr 1fr }
 .wide img { min-width: 0 }
 .whole img { max-width: 100%; max-height: 24cm }
 th, td { padding: .12rem .3rem; white-space: normal }
 table { font-size: .8em }
 .name { min-width: 9em; max-width: none; font-size: 1em }
 tbody .name { position: static }
 th.metric, .text { min-width: 0 }
 .card, tr, figure { break-inside: avoid }
 h2 { break-after: avoid }
 thead { display: table-header-group }
 .screen { display: none }
 th button { display: contents }
 * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
{% block style %}{% endblock %}
</style>
</head>
<body>
{% block body %}{% endblock %}
<script>
document.querySelectorAll('table.sortable').forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const button = document.createElement('button'), text = head.matches('.name, .kind, .text');
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const rising = head.getAttribute('aria-sort') === 'descending' || (text && !head.hasAttribute('aria-sort'));
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
      const order = (a, b) => text ? a.localeCompare(b, 'en', {numeric: true}) : a - b;
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
