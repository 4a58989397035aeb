"""The report: JSON carries the numbers, the tables show them."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from vadslim.analysis.complexity import count
from vadslim.analysis.latency import measure
from vadslim.analysis.report import GroupRow, Measured, Report, print_report


def network(width, file_bytes=None):
    model = nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 2))
    counted = count(model, lambda m: m(torch.zeros(3, 10)))
    latency = measure(lambda: model(torch.zeros(3, 10)), repeats=2)
    return Measured(counted.params, counted, latency, file_bytes)


def report():
    rows = [
        GroupRow('0', 'neuron', 40, 20),
        GroupRow('a', 'head', 8, 8, 'frozen: stage 1'),
        GroupRow('b', 'head', 8, 8, 'frozen: stage 1'),
        GroupRow('c', 'neuron', 4, 4),
    ]
    settings = {'config': 'c.py', 'ratio': 0.5}
    return Report(settings, '3 rows', network(40, 4000), network(20, 2100), rows, {'slim': 1.5}, ['a [note]'])


def shown(every_group):
    stream = io.StringIO()
    print_report(report(), Console(file=stream, width=120), every_group)
    return stream.getvalue()


def test_json_has_the_counts_of_both_networks():
    data = json.loads(report().to_json())
    assert data['before']['params'] == 40 * 11 + 2 * 41 and data['after']['params'] == 20 * 11 + 2 * 21
    assert (data['before']['macs'], data['after']['macs']) == (3 * 40 * 12, 3 * 20 * 12)
    assert data['modules']['0'] == {'params': [440, 220], 'macs': [1200, 600]}
    assert data['groups'][1]['reason'] == 'frozen: stage 1'
    assert data['before']['latency']['threads'] == torch.get_num_threads()
    assert data['after']['file_bytes'] == 2100 and data['settings']['ratio'] == 0.5


def test_the_table_shows_numbers_sizes_and_reasons():
    text = shown(every_group=False)
    assert '522' in text and '262' in text and '50.2%' in text  # parameters
    assert '1.44 k' in text and '720' in text  # MACs
    assert 'one forward of 3 rows' in text and 'median of 2 on' in text
    assert '2 kept whole, frozen: stage 1: a, b' in text
    assert '1 kept whole, nothing to remove: c' in text
    assert 'a [note]' in text


def test_what_groups_save_or_would_save():
    rows = [
        GroupRow('a', 'head', 8, 4, '', 1200, 3_400_000),
        GroupRow('b', 'point', 8, 8, 'off by default: name it in targets', 560, None),
        GroupRow('c', 'head', 8, 8, 'frozen: stage 1'),
    ]
    stream = io.StringIO()
    print_report(replace(report(), groups=rows), Console(file=stream, width=120), every_group=True)
    lines = [' '.join(line.replace('│', ' ').split()) for line in stream.getvalue().splitlines()]
    assert 'a head 4 8 -1.2 k -3.4 M' in lines and 'What others would save alone' in lines
    assert 'b point 8 -560' in lines and not any(line.startswith('c head') for line in lines)


def test_every_group_on_request():
    assert any('neuron' in line and '20' in line and '0' in line for line in shown(True).splitlines())
    assert 'Groups: 1 of 4 lose units' in shown(True)


def test_what_was_not_measured_is_absent():
    bare = Report({}, '', Measured(10), Measured(5), [])
    stream = io.StringIO()
    print_report(bare, Console(file=stream, width=120))
    assert '50.0%' in stream.getvalue() and 'MACs' not in stream.getvalue()
    assert bare.to_dict()['before']['macs'] is None and bare.to_dict()['modules'] == {}


@pytest.mark.parametrize(
    ('cost', 'line'),
    [('latency', 'latency (ms), predicted | 40.12 | 20.3 | 50.6%'), ('MACs', 'MACs, predicted | 40.12 | 20.3 |')],
)
def test_a_prediction_stands_beside_what_was_measured(cost, line):
    target = {'cost': cost, 'goal': 20.5, 'before': 40.123, 'predicted': 20.3, 'counted': None, 'ratio': 0.4}
    done = replace(report(), target=target)
    assert json.loads(done.to_json())['target'] == target and json.loads(report().to_json())['target'] is None
    stream = io.StringIO()
    print_report(done, Console(file=stream, width=120))
    rows = [' | '.join(part.strip() for part in row.split('│')[1:]) for row in stream.getvalue().splitlines()]
    assert any(row.startswith(line) for row in rows), stream.getvalue()
