"""What pages have in common: they escape, they need nothing else, their tables are tables."""

import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from test_pages import Page

from vadslim.analysis.html_page import Picture, breakable, left, render, settings_rows

PROJECTS = Path(__file__).resolve().parents[2] / 'projects'
TEMPLATE = """{% extends 'page' %}
{% from 'cells' import number, pairs, show, table %}
{% block title %}{{ title }}{% endblock %}
{% block body %}
{% call table('What there is', [('name', 'name'), ('much', '')], 'it') %}
<tr><th scope="row" class="name">{{ title | breakable }}</th>{{ number(12345) }}</tr>
<tr><th scope="row" class="name">none</th>{{ number(none) }}</tr>
{% endcall %}
{{ pairs('Settings', [('long', 'x' * 200), ('short', '<y>')]) }}
{{ show(picture) }}
{% endblock %}"""


def test_a_page():
    text = render(TEMPLATE, title='<b>.c', picture=Picture('a "map"', b'PNG', 'wide'))
    page = Page(text)
    assert page.open == [] and "default-src 'none'" in page.policy
    assert '<title>&lt;b&gt;.c</title>' in text and '<b>' not in text
    assert page.rows[:3] == [['name', 'much'], ['<b>.c', '12.3 k'], ['none', '']] and 'data-v="12345"' in text
    assert '<th scope="col"' in text and '<caption>What there is</caption>' in text and 'id="it"' in text
    assert '<figure class="wide" tabindex="0"><img alt="a &#34;map&#34;" src="data:image/png;base64,UE5H">' in text
    assert text.count('<details>') == 1 and ['short', '<y>'] in page.rows
    assert 'http' not in text.replace('http-equiv', '')


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match='picture'):
        render(TEMPLATE, title='')


def test_words():
    assert breakable('a.b_<c') == 'a.<wbr>b_<wbr>&lt;c'
    assert (left(1, 4), left(None, 4), left(1, 0)) == ('25.0%', '', '')
    settings = {'round_to': 1, 'targets': [], 'target': None, 'config': 'c.py', 'protect': ['ä']}
    assert settings_rows(settings) == [('round to', '1'), ('config', 'c.py'), ('protect', '["ä"]')]


def test_it_is_light():
    """What reads headers writes pages, too; whoever does not write one does not wait for Jinja."""
    script = 'import sys, vadslim.analysis.html_page, vadslim.analysis.plots; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', script], cwd=PROJECTS, capture_output=True, text=True, check=True)
    assert {'torch', 'mmengine', 'matplotlib', 'numpy', 'pandas', 'jinja2'} & set(done.stdout.split()) == set()
