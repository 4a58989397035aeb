"""What the terminal shows: equal neighbours in one row, and nothing that a name could break."""

import io

import pytest
from llm_files import TINY, write_llama
from rich.console import Console

from vadslim.analysis.headers import read_headers
from vadslim.analysis.model_comparison import compare_structures
from vadslim.analysis.model_structure import analyse
from vadslim.analysis.structure_tables import print_comparison, print_model


def of(path, name=None):
    return analyse(read_headers(path), name).to_dict()


@pytest.fixture
def console():
    return Console(width=160, record=True, file=io.StringIO())


def rows(console, *starts):
    lines = [line.strip('│ ') for line in console.export_text().splitlines()]
    return [[cell.strip() for cell in line.split('│')] for line in lines if line.startswith(starts)]


def test_model(tmp_path, console):
    drop = ['model.layers.1.*']
    model = of(write_llama(tmp_path, {**TINY, 'num_hidden_layers': 5}, drop=drop), '[red]odd[/red] \x1b[2Jname')
    print_model(model, console)
    text = console.export_text(clear=False)
    assert '[red]odd[/red] \ufffd[2Jname: 14,096 parameters' in text and '5 layers, 1 of them empty' in text
    assert rows(console, 'model.layers') == [
        ['model.layers.0', '2,720', '768', '1,920', '32'],
        ['model.layers.1', '0', '0', '0', '0', 'empty'],
        ['model.layers.2-4', '2,720', '768', '1,920', '32'],
    ]


def test_comparison(tmp_path, console):
    base = of(write_llama(tmp_path / 'base', TINY))
    changes = {f'model.layers.2.mlp.{name}_proj.weight': (20, 16) for name in ('up', 'gate')}
    changes['model.layers.2.mlp.down_proj.weight'] = (16, 20)
    print_comparison(compare_structures(base, of(write_llama(tmp_path / 'cut', TINY, changes=changes))), console)
    assert rows(console, 'parameters', 'model.layers') == [
        ['parameters', '11,376', '10,416', '960', '8.44%'],
        ['model.layers.0-1', '2,720', '2,720', '100.0%', '100.0%', '100.0%', 'light'],
        ['model.layers.2', '2,720', '1,760', '64.7%', '100.0%', '50.0%'],
    ]


def test_layers_that_nothing_tells_of(tmp_path, console):
    base, short = of(write_llama(tmp_path / 'base', TINY)), of(write_llama(tmp_path / 'short', TINY, layers=[0, 2]))
    print_comparison(compare_structures(base, short), console)
    assert '1 layers fewer; nothing in the files tells which' in console.export_text()
