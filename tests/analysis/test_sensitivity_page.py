"""The page of a sensitivity sweep, and the heat map that rules lead back to."""

import json
import math

import pytest
from test_pages import Page

from vadslim.analysis.html_page import Picture
from vadslim.analysis.sensitivity_page import (
    picture_of_rules,
    read_sensitivity,
    render_sensitivity,
    sensitivity_picture,
)
from vadslim.pruning.sensitivity import Row, Sensitivity

FOUND = Sensitivity(
    {'a.heads': ('head', 4), 'b.<i>': ('channel', 10)},
    40,
    {'plan_L2_1s': 2.0, 'col': 0.0, 'EPA': 0.5},
    (
        Row('a.heads', 0.5, 2, {'plan_L2_1s': 3.0, 'col': 0.1, 'EPA': 0.25}),
        Row('b.<i>', 0.1, 1, {'plan_L2_1s': 1.0, 'col': 0.0, 'EPA': math.nan}),
    ),
)
LARGER = {'plan_L2_1s': False, 'EPA': True, 'col': False}


def test_the_page():
    text = render_sensitivity(FOUND, LARGER, {'config': 'c.py', 'round_to': 8}, Picture('the map', b'PNG', 'whole'))
    page = Page(text)
    assert page.open == [] and page.links == ['data:image/png;base64,UE5H']
    assert page.rows[0] == ['Group', 'kind', 'units', 'ratio', 'gone', 'worst', 'plan_L2_1s', 'EPA', 'col']
    assert page.rows[1] == ['a.heads', 'head', '4', '0.5', '2', '>+999%', '+50%', '+50%', '>+999%']
    assert page.rows[2] == ['b.<i>', 'channel', '10', '0.1', '1', 'not known', '-50%', 'not known', '0%']
    assert 'data-v="0.5"' in text and 'data-v="1e999"' in text and 'b.<i>' not in text
    assert '2 Groups were slimmed one at a time' in page.text and '2 m' in page.text and 'more is better' in page.text
    assert ['round to', '8'] in page.rows


@pytest.fixture
def rules(tmp_path):
    (tmp_path / 'sweep').mkdir()
    (tmp_path / 'sweep' / 'sensitivity.json').write_text(json.dumps(FOUND.to_dict()))

    def write(**origin):
        data = {'rules': [], 'default': 0, 'sensitivity': {'file': 'sweep/sensitivity.json', **origin}}
        (tmp_path / 'rules.json').write_text(json.dumps(data))
        return tmp_path / 'rules.json'

    return write


def test_rules_lead_back_to_the_measurements(rules):
    for origin, larger in (
        ({'metrics': {'EPA': True, 'gone': False}}, {'EPA': True}),
        ({}, {'plan_L2_1s': False, 'col': False, 'EPA': True}),
    ):
        assert picture_of_rules(rules(**origin), 'map.png') == {'map.png': sensitivity_picture(FOUND, larger)}


def test_without_measurements_there_is_no_picture(rules, tmp_path):
    path = rules()
    assert picture_of_rules(None, 'map.png') == {}
    result = tmp_path / 'sweep' / 'sensitivity.json'
    for text in ('{', '{}', '{"format": 1}', json.dumps({**FOUND.to_dict(), 'points': []})):
        result.write_text(text)
        assert picture_of_rules(path, 'map.png') == {}, text
    result.unlink()
    assert picture_of_rules(path, 'map.png') == {}
    path.write_text('[]')  # rules by hand
    assert picture_of_rules(path, 'map.png') == {}
    path.unlink()
    assert picture_of_rules(path, 'map.png') == {}


def test_what_was_read_is_what_was_written(rules, tmp_path):
    rules()
    assert read_sensitivity(tmp_path / 'sweep' / 'sensitivity.json').groups == FOUND.groups
    (tmp_path / 'a.json').write_text('[1]')
    with pytest.raises(ValueError, match='a.json: is not what sensitivity.py has written'):
        read_sensitivity(tmp_path / 'a.json')
