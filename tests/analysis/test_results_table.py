"""Each format is read back by somebody else's reader and holds what was put in."""

import csv
import io
import math
import re

import pytest
from evaluations import write_guide
from test_pages import Page

from vadslim.analysis.evaluation_results import COLUMNS, SIZE, STD, Row, read_results
from vadslim.analysis.results_table import cell_text, to_csv, to_excel, to_html, to_latex, to_markdown
from vadslim.cli import UserError

HEADINGS = [column.name for column in COLUMNS]
UGLY = '=1+1|a&b_c<script>"\n[x](y) *z* \\ 50% 模型_'


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    known = read_results(write_guide(tmp_path_factory.mktemp('results'))).rows
    return [*known, Row(UGLY, {SIZE: None, 'PPL (WikiText-2)': math.inf, STD: 0.25})]


def test_cells():
    shown = [cell_text(1234.56789, column) for column in COLUMNS[1:20]]
    assert shown == [f'{1234.56789:.{places}f}' for places in (3, 3, *[2] * 10, 1, 3, 1, 3, 1, 4, 4)]
    assert [cell_text(1.5, column, 0) for column in COLUMNS[1:3]] == ['2', '2']
    assert cell_text(None, COLUMNS[1]) == cell_text(None, COLUMNS[20]) == 'N/A'
    assert cell_text(math.inf, COLUMNS[3]) == 'inf' and cell_text('[1, 2]', COLUMNS[20], 3) == '[1, 2]'


def test_csv(rows):
    content = to_csv(rows)
    assert content.startswith(b'\xef\xbb\xbf') and b'\r' not in content
    read = list(csv.reader(io.StringIO(content.decode('utf-8-sig'))))
    assert read[0] == HEADINGS and [row[0] for row in read[1:]] == [row.name for row in rows]
    for line, row in zip(read[1:], rows):
        assert ['' if value is None else str(value) for value in row.cells] == line
    assert float(read[1][HEADINGS.index(SIZE)]) == rows[0].values[SIZE]  # as it was read
    assert read[1][20] == '[11, 12, 25]' and read[-1][1:4] == ['', '', 'inf']


def test_csv_of_fewer_places(rows):
    read = list(csv.reader(io.StringIO(to_csv(rows, 1).decode('utf-8-sig'))))
    assert read[1][:4] == ['HGSP_2000', '12.0', '6.4', '39.9'] and read[1][20] == '[11, 12, 25]'
    assert read[-1][1:4] == ['', '', 'inf']


def test_markdown(rows):
    lines = to_markdown(rows).decode().splitlines()
    cells = [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]
    assert [len(row) for row in cells] == [24] * (2 + len(rows))
    assert cells[0] == HEADINGS and set(cells[1]) == {'---', '---:'}
    assert cells[2][:4] == ['HGSP_2000', '11.966', '6.424', '39.87'] and cells[2][20] == '[11, 12, 25]'
    assert cells[-1][0] == r'=1+1\|a\&b_c\<script\>" \[x\](y) \*z\* \\ 50% 模型\_'
    assert cells[-1][1:4] == ['N/A', 'N/A', 'inf'] and cells[-1][18] == '0.2500'


def test_html(rows):
    text = to_html(rows).decode()
    page = Page(text)
    assert page.open == [] and page.links == [] and "default-src 'none'" in page.policy
    assert '<title>模型评估结果汇总</title>' in text and text.count('<script>') == 1
    assert page.rows[0] == HEADINGS and len(page.rows) == 1 + len(rows)
    assert page.rows[1][:4] == ['HGSP_2000', '11.966', '6.424', '39.87']
    assert f'data-v="{rows[0].values[SIZE]}">11.966<' in text and 'data-v="[11, 12, 25]">[11, 12, 25]<' in text
    assert ' data-v="">N/A<' in text and 'data-v="Infinity">inf<' in text
    assert page.rows[-1][0] == UGLY


def test_latex(rows):
    lines = to_latex(rows).decode().splitlines()
    assert lines[0].startswith('%') and 'ctex' in lines[0] and 'xelatex' in lines[0]
    assert lines[1] == rf'\begin{{tabular}}{{l{"r" * 19}{"l" * 4}}}' and lines[-1] == r'\end{tabular}'
    assert [line for line in lines if line.endswith('rule')] == [r'\toprule', r'\midrule', r'\bottomrule']
    body = [line for line in lines if line.endswith(r'\\')]
    cells = [re.split(r'(?<!\\)&', line.removesuffix(r'\\')) for line in body]
    assert [len(row) for row in cells] == [24] * (1 + len(rows)) and len(lines) == 6 + len(body)
    assert cells[0][5].strip() == r'ZS-BoolQ (\%)' and cells[0][20].strip() == r'保留\textless{}5\%的层'
    assert [cell.strip() for cell in cells[1][:4]] == [r'HGSP\_2000', '11.966', '6.424', '39.87']
    ugly = r'=1+1|a\&b\_c\textless{}script\textgreater{}" [x](y) *z* \textbackslash{} 50\% 模型\_'
    assert cells[-1][0].strip() == ugly
    first = [to_latex([Row(name, {})]).decode().splitlines()[5].split(' &')[0] for name in ('[2pt]', '*', 'a--b{$#}^~')]
    assert first == ['{}[2pt]', '{}*', r'a-{}-b\{\$\#\}\textasciicircum{}\textasciitilde{}']


def test_excel(rows):
    openpyxl = pytest.importorskip('openpyxl')
    sheet = openpyxl.load_workbook(io.BytesIO(to_excel(rows))).active
    read = list(sheet.iter_rows(values_only=True))
    assert list(read[0]) == HEADINGS and len(read) == 1 + len(rows)
    numbers = slice(1, 20)
    assert list(read[1][numbers]) == pytest.approx(rows[0].cells[numbers], rel=1e-15)
    assert (read[1][0], list(read[1][20:])) == ('HGSP_2000', rows[0].cells[20:])
    assert [cell.number_format for cell in sheet[2][1:4]] == ['0.000', '0.000', '0.00']
    name = sheet.cell(len(rows) + 1, 1)
    assert (name.data_type, name.value) == ('s', UGLY)  # not a formula
    assert read[-1][1:4] == (None, None, 'inf')
    few = openpyxl.load_workbook(io.BytesIO(to_excel([Row('a\x07b', {SIZE: 1.25}), Row('#N/A', {})], 0))).active
    assert (few['A2'].value, few['B2'].value, few['B2'].number_format) == ('a\ufffdb', 1.25, '0')
    assert few['A3'].data_type == 's'


def test_excel_without_openpyxl(rows, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'openpyxl', None)
    with pytest.raises(UserError, match='Excel files need openpyxl, which is not installed'):
        to_excel(rows)
