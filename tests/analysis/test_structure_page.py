"""The page that compares models: all of them in a table, their layers as a heat map, each one by itself."""

import re

import pytest
from structure_dicts import DENSE, FULL, SHORT, comparison, structure
from test_pages import Page

from vadslim.analysis.structure_page import render_page, write_page
from vadslim.analysis.structure_summary import summarize

SLIM = structure('slim', [FULL] * 20 + [(0.5, 0.1)] * 10 + [(0, 0), (1.0, 0)])


def model(name, data=SLIM):
    return summarize(name, data, comparison(DENSE, data))


@pytest.fixture(scope='module')
def text():
    return render_page([model('r/slim'), model('r/<b>short', SHORT), summarize('r/base', DENSE)])


def table(text, label):
    """Rows of a table by its label."""
    return Page(re.search(rf'<caption>{label}</caption>(.*?)</table>', text, re.S).group(1)).rows


def test_the_page_needs_nothing_else(text):
    page = Page(text)
    assert page.open == [] and page.links == [] and "default-src 'none'" in page.policy
    assert '3 models compared' in page.text and '<b>short' not in text
    assert '5.84 G to 8.03 G' in page.text and '19.0% to 27.3%' in page.text


def test_the_models(text):
    heads, *rows = table(text, 'Models')
    assert heads == [
        *('model', 'parameters', 'removed %', 'left', 'layers', 'gone', 'empty', 'heavy', 'light', 'attention %'),
        'MLP %',
    ]
    assert rows == [
        ['', '8.03 G', '', '', '32', '', '0', '', '', '16.7', '70.2'],
        ['', '6.5 G', '19.01', '', '25', '7', '0', '0', '25', '16.1', '67.7'],
        ['', '5.84 G', '27.26', '', '32', '0', '1', '12', '20', '18.7', '63.3'],
    ]
    assert 'data-v="6503477248"' in text and 'data-v="19.012' in text
    assert '>r/<wbr>&lt;b&gt;<wbr>short<' not in text and 'r/<wbr>&lt;b&gt;short</a>' in text


def test_what_layers_have_left(text):
    heads, short, slim = table(text, 'Layers: what is left, per cent')
    assert heads == ['model', *map(str, range(32))]
    assert short == ['', *['100'] * 25, *[''] * 7] and slim == ['', *['100'] * 20, *['18'] * 10, '0', '19']
    assert table(text, 'Attention: what is left, per cent')[2][21:] == [*['50'] * 10, '0', '100']
    assert table(text, 'MLP: what is left, per cent')[2][21:] == [*['10'] * 10, '0', '0']
    assert text.count('<td class=z>') >= 4 and '<td class=h>18</td>' in text and '<td class=k5>50</td>' in text
    assert 'those that are left stand first' in text


def test_a_strip_for_each_model(text):
    """Its pieces end where the shade changes; the layers that are not listed are no part of it."""
    strips = re.findall(r'style="background:(.*?)"', text)
    assert strips == [
        'linear-gradient(90deg,var(--k10) 0 78.12%,var(--head) 0 100%)',
        'linear-gradient(90deg,var(--k10) 0 62.5%,var(--h) 0 93.75%,var(--z) 0 96.88%,var(--h) 0 100%)',
    ]
    assert 'aria-label="78.1 % left"' in text


def test_each_model(text):
    rows = Page(text).rows
    assert ['20', '38,595,788', '20,971,520', '17,616,076', '8,192', '17.7%', '50.0%', '10.0%', 'heavy'] in rows
    assert ['30', '8,192', '0', '0', '8,192', '0.0%', '0.0%', '0.0%', 'empty'] in rows
    assert ['31', '218,112,000', '41,943,040', '176,160,768', '8,192', ''] in rows  # of the one not compared
    assert ['layers gone', '7'] in rows and ['light layers', '0-24'] in rows and ['heavy layers', '20-31'] in rows
    assert [text.count(f'id="m{number}"') for number in range(4)] == [1, 1, 1, 0]
    assert all(f'href="#m{number}"' in text for number in range(3))


def test_one_model_that_was_not_compared():
    text = render_page([summarize('base', DENSE)])
    page = Page(text)
    assert 'base: its layers' in page.text and 'has left' not in page.text and '<details class="model" open>' in text
    assert table(text, 'Models')[0][-1] == 'MLP %'


def test_stacks_are_named():
    """Where all models have the same ones."""

    def named(name, first):
        found = model(name)
        for layer in found['layers']:
            layer['name'] = f'{"encoder" if layer["layer_idx"] < first else "decoder"}.{layer["layer_idx"]}'
        return found

    assert '0-5: encoder; 6-31: decoder' in Page(render_page([named('a', 6), named('b', 6)])).text
    assert 'encoder;' not in render_page([named('a', 6), named('b', 7)]) + render_page([named('a', 0)])


def test_what_was_counted_and_named():
    data = {**SHORT, 'size_bytes': 13_006_954_496, 'path': '<i>', 'kind': 'safetensors'}
    zeros = {'elements': 8, 'zeros': 2, 'units': 4, 'zero_units': 0}
    layers = [{**one, 'name': f'<u>.{one["layer_idx"]}', 'zeros': zeros} for one in SHORT['layers']]
    data |= {'zeros': zeros, 'layers': layers}
    text = render_page([summarize('m', data)], 'a title')
    heads, row = table(text, 'Models')
    shown = dict(zip(heads, row))
    assert (shown['bytes'], shown['zeros %'], shown['zero units %']) == ('13 GB', '25.0', '0.0')
    rows = Page(text).rows
    assert ['path', '<i>'] in rows and '<h1>a title</h1>' in text
    assert ['24', '<u>.24', '218,112,000', '41,943,040', '176,160,768', '8,192', '25.0%', '0.0%', ''] in rows


def test_a_model_without_layers_and_one_that_grew():
    grown = structure('grown', [FULL] * 33)
    text = render_page([summarize('no layers', structure('no', [])), model('grown', grown)])
    assert table(text, 'Models')[1][2:5] == ['-2.72', '', '33'] and Page(text).open == []


def test_a_hundred_models_are_not_too_large(tmp_path):
    many = [model(f'results/method_{number}') for number in range(100)]
    write_page(tmp_path / 'page.html', many)
    assert 400_000 < (tmp_path / 'page.html').stat().st_size < 1_500_000
