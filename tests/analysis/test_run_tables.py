"""The tables of what one forward costs."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from vadslim.analysis.example import Change, Example
from vadslim.analysis.run_page import render_run
from vadslim.analysis.run_report import collect, compute
from vadslim.analysis.run_tables import print_run, remarks


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack = nn.ModuleDict({'layers': nn.Sequential(nn.Linear(4, 4), nn.ReLU())})
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.stack['layers'](x)


@pytest.fixture(scope='module')
def report():
    changes = {'as another': lambda *_: [Change('stack.layers.0', 'more', 2000, 7)]}
    made = Example(lambda m: m(torch.zeros(3, 4)), '3 x 4', parts={'front': ['stack']}, alternatives=changes)
    return compute(collect(Net().eval(), made, repeats=2))


def text_of(report, width):
    stream = io.StringIO()
    print_run(report, Console(file=stream, width=width))
    return stream.getvalue()


def test_printed(report):
    text = text_of(report, 160)
    assert 'MACs         48 (matrix products' in text and '2,048 as another' in text
    assert '│ │   layers' not in text and '│   layers' in text and 'Sequential' in text
    assert 'not used by this forward: 2 parameters (6 numbers): spare.weight, spare.bias' in text
    narrow = text_of(report, 60)
    assert 'Sequential' not in narrow and max(map(len, narrow.splitlines()[8:-2])) <= 60


def test_what_could_not_be_counted_is_printed():
    class Spectral(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x)

    found = compute(collect(Spectral(), Example(lambda m: m(torch.zeros(3, 4)), '')))
    assert any('fft' in line and line.startswith('not counted') for line in remarks(found))
    assert 'fft' in render_run(found)
