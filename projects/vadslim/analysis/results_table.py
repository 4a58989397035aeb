"""The table of evaluation results as CSV, Markdown, HTML, LaTeX and Excel: the bytes of a file each.

Every function takes rows and, if they were asked for, decimal places for all numbers in place of each column's own.
CSV and Excel hold the numbers as they were read; in CSV they are rounded only where places are asked for.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

from vadslim.analysis.evaluation_results import COLUMNS, Column, Row, Value
from vadslim.cli import UserError

TITLE = '模型评估结果汇总'
MISSING = 'N/A'


def cell_text(value: Value, column: Column, places: int | None = None) -> str:
    """A cell for people."""
    if value is None:
        return MISSING
    if column.places is None or isinstance(value, str):
        return str(value)
    return f'{value:.{column.places if places is None else places}f}'


def _texts(row: Row, places: int | None) -> list[str]:
    return [cell_text(value, column, places) for value, column in zip(row.cells, COLUMNS)]


def to_csv(rows: Sequence[Row], places: int | None = None) -> bytes:
    """UTF-8 with a byte order mark, which Excel needs; an empty cell is 'not known'."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(column.name for column in COLUMNS)
    for row in rows:
        cells = row.cells if places is None else _texts(row, places)
        writer.writerow('' if value is None else text for value, text in zip(row.cells, cells))
    return text.getvalue().encode('utf-8-sig')


def to_markdown(rows: Sequence[Row], places: int | None = None) -> bytes:
    """A table of GitHub's Markdown."""
    lines = [[column.name for column in COLUMNS], ['---' if c.places is None else '---:' for c in COLUMNS]]
    for row in rows:
        name, *cells = _texts(row, places)
        lines.append([_markdown(name), *cells])
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines).encode()


def _markdown(text: str) -> str:
    """A text that Markdown leaves as it is; an underscore within a word means nothing to it."""
    text = re.sub(r'([\\`*\[\]<>|&~])', r'\\\1', ' '.join(text.split()))
    return re.sub(r'(?<![^\W_])_|_(?![^\W_])', r'\\_', text)


_PAGE = """{% extends 'page' %}
{% from 'cells' import table %}
{% block title %}{{ title }}{% endblock %}
{% block style %}
@media screen {
 body { max-width: none }
 .scroll { max-height: 85vh }
 .name { position: sticky; left: 0; min-width: 9rem; background: var(--page) }
 thead .name { z-index: 2; background: var(--head) }
}
thead th { white-space: normal; word-break: keep-all }
@page { size: A3 landscape }
{% endblock %}
{% block body %}
<h1 lang="zh">{{ title }}</h1>
{% call table(title, columns) %}
{% for row in rows %}
<tr><th scope="row" class="name">{{ row[0][1] | breakable }}</th>
{%- for value, text, class in row[1:] %}
<td{% if class %} class="{{ class }}"{% endif %} data-v="{{ '' if value is none else value }}">{{ text }}</td>
{%- endfor %}</tr>
{% endfor %}
{% endcall %}
{% endblock %}"""


def to_html(rows: Sequence[Row], places: int | None = None) -> bytes:
    """A page that needs nothing else, with a table that sorts."""
    from vadslim.analysis.html_page import render

    kinds = ['name', *('kind' if column.places is None else '' for column in COLUMNS[1:])]
    columns = [(column.name, kind) for column, kind in zip(COLUMNS, kinds)]
    cells = [list(zip(map(_sortable, row.cells), _texts(row, places), kinds)) for row in rows]
    return render(_PAGE, title=TITLE, columns=columns, rows=cells).encode()


def _sortable(value: Value) -> Value:
    return 'Infinity' if value == float('inf') else value  # as JavaScript reads it


def to_latex(rows: Sequence[Row], places: int | None = None) -> bytes:
    r"""A ``tabular`` of booktabs, to be ``\input``."""
    kinds = ''.join('l' if column.places is None else 'r' for column in COLUMNS)
    lines = [
        r'% \usepackage{booktabs}; the headings are Chinese: compile with xelatex and \usepackage{ctex}',
        rf'\begin{{tabular}}{{{kinds}}}',
        r'\toprule',
        _latex_line([column.name for column in COLUMNS]),
        r'\midrule',
        *(_latex_line(_texts(row, places)) for row in rows),
        r'\bottomrule',
        r'\end{tabular}',
    ]
    return ''.join(f'{line}\n' for line in lines).encode()


_LATEX = {
    **{letter: f'\\{letter}' for letter in '{}$&#%_'},
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
}


def _latex_line(cells: Sequence[str]) -> str:
    return f'{" & ".join(map(_latex, cells))} \\\\'


def _latex(text: str) -> str:
    text = ''.join(_LATEX.get(letter, letter) for letter in ' '.join(text.split()))
    text = re.sub('-(?=-)', '-{}', text)  # two hyphens are a dash
    return f'{{}}{text}' if text[:1] in ('[', '*') else text  # after \\ these are options of it


def to_excel(rows: Sequence[Row], places: int | None = None) -> bytes:
    """A workbook of one sheet.

    Raises:
        UserError: openpyxl is not installed.
    """
    try:
        from openpyxl import Workbook
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
        from openpyxl.styles import Font
        from openpyxl.utils import get_column_letter
    except ModuleNotFoundError as error:
        raise UserError(f'Excel files need {error.name}, which is not installed (pip install openpyxl)') from error
    book = Workbook()
    sheet = book.active
    sheet.title = TITLE
    for number, column in enumerate(COLUMNS, 1):
        sheet.cell(1, number, column.name).font = Font(bold=True)
        sheet.column_dimensions[get_column_letter(number)].width = 24 if number == 1 else 20
        for line, row in enumerate(rows, 2):
            value = row.cells[number - 1]
            cell = sheet.cell(line, number)
            if isinstance(value, float) and abs(value) == float('inf'):
                value = str(value)  # Excel has no such number
            if isinstance(value, str):
                cell.value = ILLEGAL_CHARACTERS_RE.sub('\ufffd', value)
                cell.data_type = 's'  # also what begins with '=': a name, not a formula
            elif value is not None:
                cell.value = value
                digits = column.places if places is None else places
                cell.number_format = '0' + ('.' + '0' * digits if digits else '')
    sheet.freeze_panes = 'B2'
    sheet.auto_filter.ref = sheet.dimensions
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


#: --format -> (how a file name ends, what makes the bytes)
FORMATS: dict[str, tuple[str, Callable[[Sequence[Row], int | None], bytes]]] = {
    'csv': ('.csv', to_csv),
    'markdown': ('.md', to_markdown),
    'html': ('.html', to_html),
    'excel': ('.xlsx', to_excel),
    'latex': ('.tex', to_latex),
}
