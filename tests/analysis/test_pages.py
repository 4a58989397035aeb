"""The report as files: a page that needs nothing else, a table, pictures."""

import csv
from base64 import b64decode
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from vadslim.analysis import Latency, Measured, Report, count
from vadslim.analysis.html_page import Picture
from vadslim.analysis.layer_sizes import layer_sizes, part_sizes, parts
from vadslim.analysis.pages import (
    LATENCY,
    LAYERS,
    LEVELS,
    MACS,
    PAGE,
    PAGE_FILES,
    PARAMS,
    SENSITIVITY,
    WIDTHS,
    write_pages,
)
from vadslim.analysis.report import GroupRow

LEVELS_DATA = [
    {'level': 0, 'params': 100, 'metrics': {'L2': 2.0}},
    {'level': 1, 'params': 70, 'metrics': {}},
    {'level': 2, 'params': 50, 'metrics': {'L2': 2.2}, 'folder': 'level_2'},
]


def run(model):
    return model(torch.zeros(3, 10))


def network(width):
    return nn.Sequential(nn.Linear(10, width), nn.LayerNorm(width), nn.Linear(width, 2))


class Page(HTMLParser):
    """What a browser would find: tags, links, table rows, text."""

    VOID = {'meta', 'img', 'input', 'wbr', 'br'}

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.rows, self.text, self.policy = [], [], [], '', ''
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ('src', 'srcset')]
        self.policy += attributes.get('content', '') if 'http-equiv' in attributes else ''
        self.open += [] if tag in self.VOID else [tag]
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th') and 'tr' in self.open:
            self.rows[-1].append('')

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if 'style' in self.open or 'script' in self.open:
            return
        self.text += data
        if self.open[-1:] in (['td'], ['th']):
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    dense, slim = network(40), network(20)
    before, after = count(dense, run), count(slim, run)
    latency = [Latency(ms, ms - 1, ms + 1, 3, 1, 2, 'cpu <fast>') for ms in (30.0, 20.0)]
    groups = [
        GroupRow('0', 'neuron', 40, 20, '', 12345, 678),
        GroupRow('a.b', 'head', 8, 8, 'frozen: <stage 1>'),
        GroupRow('c', 'point', 8, 8, 'off by default', 560, None),
    ]
    report = Report(
        {'config': 'c.py', 'ratio': 0.5, 'target': None, 'targets': [], 'protect': ['<img src=x>']},
        '3 rows',
        Measured(before.params, before, latency[0], 4000),
        Measured(after.params, after, latency[1], 2100),
        groups,
        {'slim': 1.5},
        ['<script>alert(1)</script> dropped'],
    )
    sizes = part_sizes(parts(before.modules), dense, slim, before, after, ({'0': 20.0}, {'0': 10.0}))
    folder = tmp_path_factory.mktemp('report')
    layers, more = layer_sizes(dense, slim, before, after), {SENSITIVITY: Picture('a map', b'PNG', 'whole')}
    written = write_pages(folder, report, layers, sizes, LEVELS_DATA, more)
    assert {path.name for path in written} == {path.name for path in folder.iterdir()} == set(PAGE_FILES)
    return folder


def test_the_page_needs_nothing_else(folder):
    page = Page((folder / PAGE).read_text(encoding='utf-8'))
    assert page.open == []
    pictures = [b64decode(link.removeprefix('data:image/png;base64,'), validate=True) for link in page.links]
    assert pictures == [(folder / name).read_bytes() for name in (LEVELS, WIDTHS, PARAMS, MACS, LATENCY, SENSITIVITY)]
    assert "default-src 'none'" in page.policy


def test_the_page_says_what_the_report_says(folder):
    text = (folder / PAGE).read_text(encoding='utf-8')
    page = Page(text)
    assert '<script>alert' not in text and '<img src=x>' not in text
    for part in (
        '<script>alert(1)</script> dropped',
        '["<img src=x>"]',
        'cpu <fast>',
        '1: frozen: <stage 1>',
        '3 rows',
    ):
        assert part in page.text
    assert 'Groups: 1 of 3 lose units' in page.text and '66.7%' in page.text  # latency
    assert ['0', 'neuron', '20', '40', '50.0%', '12.3 k', '678'] in page.rows and 'data-v="12345"' in text
    assert ['c', 'point', '8', '560', ''] in page.rows
    assert ['0', 'Linear', '10', '10', '40', '20', '', '440', '220', '1.2 k', '600'] in page.rows
    assert ['ratio', '0.5'] in page.rows and 'target' not in [row[0] for row in page.rows]


def test_pictures_show_something(folder):
    from matplotlib.image import imread

    for name in (WIDTHS, PARAMS, MACS, LATENCY, LEVELS):
        image = imread(folder / name)
        assert image.shape[1] > 700 and image[..., :3].std() > 0.05, name


def test_csv(folder):
    with (folder / LAYERS).open() as file:
        rows = list(csv.DictReader(file))
    assert [row['kind'] for row in rows] == ['Linear', 'LayerNorm', 'Linear']
    assert (rows[2]['width_in_before'], rows[2]['width_in_after'], rows[2]['macs_after']) == ('40', '20', '120')


def test_only_what_there_are_data_for(tmp_path):
    model = network(4)
    layers, sizes = layer_sizes(model, model), part_sizes(['0'], model, model)
    report = Report({}, '', Measured(10), Measured(10), [])
    written = write_pages(tmp_path, report, layers, sizes, LEVELS_DATA[:1])
    assert {path.name for path in written} == {LAYERS, PAGE, WIDTHS, PARAMS}
    text = Page((tmp_path / PAGE).read_text()).text
    assert 'MACs' not in text and 'Latency' not in text and '100.0%' in text
    write_pages(tmp_path, report, [], [])  # a network without layers
