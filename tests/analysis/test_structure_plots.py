"""Pictures of analysed models show the numbers, and every text in them can be read."""

import numpy as np
import pytest
from structure_dicts import DENSE, FULL, SHORT, comparison, structure
from test_sparse_plots import readable

from vadslim.analysis import structure_plots
from vadslim.analysis.structure_plots import comparison_picture, layers_picture, pictures_of, retention_picture
from vadslim.analysis.structure_summary import summarize

SLIM = structure('slim', [FULL] * 20 + [(0.5, 0.1)] * 10 + [(0, 0), (1.0, 0)])


def model(name, data=SLIM):
    return summarize(name, data, comparison(DENSE, data))


@pytest.fixture
def drawn(monkeypatch):
    """The figures in place of their files."""
    figures = []
    monkeypatch.setattr(structure_plots, 'to_png', lambda figure: figures.append(figure) or b'png')
    return figures


def test_lines_of_a_few_models(drawn):
    retention_picture([model('results/slim'), model('results/short', SHORT), summarize('results/base', DENSE)])
    (figure,) = drawn
    whole, attention, mlp = figure.axes
    short, slim = attention.lines  # the larger one comes first
    assert slim.get_xdata().tolist() == list(range(32)) and len(short.get_xdata()) == 25
    assert slim.get_ydata()[[0, 20, 30, 31]].tolist() == [1, 0.5, 0, 1]
    assert mlp.lines[1].get_ydata()[20] == pytest.approx(0.1, abs=1e-6)
    assert [axes.get_title('left') for axes in figure.axes] == [
        'whole layers: what is left',
        'attention: what is left',
        'MLP: what is left',
    ]
    assert short.get_label() == 'results/short (19.0% removed, 25 layers)'
    readable(figure)


def test_a_heat_map_of_many(drawn):
    """A row for each; what an earlier tool does not list stays white."""
    models = [model(f'results/a_method_with_a_long_name_and_{number:02}_layers', SHORT) for number in range(29)]
    retention_picture([*models, model('slim')])
    (figure,) = drawn
    values = figure.axes[1].images[0].get_array()
    assert values.shape == (30, 32) and values[29, 20] == 0.5 and values[29, 30] == 0
    assert np.ma.getmaskarray(values)[0].tolist() == [False] * 25 + [True] * 7
    readable(figure)


@pytest.mark.parametrize('count', [1, 30])
def test_bars(drawn, count):
    comparison_picture([model(f'results/slim_{number}') for number in range(count)])
    (figure,) = drawn
    params, layers = figure.axes
    assert [bar.get_width() for bar in params.containers[0]] == [DENSE['total_params']] * count
    assert [bar.get_width() for bar in params.containers[1]] == [SLIM['total_params']] * count
    kinds = {container.get_label(): container[0].get_width() for container in layers.containers}
    assert kinds == {'empty or gone': 1, 'heavy (> 80 % removed)': 11, 'between': 0, 'light (< 20 %)': 20}
    readable(figure)


def test_bars_of_removed_layers_and_of_models_that_were_not_compared(drawn):
    comparison_picture([model('short', SHORT), summarize('base', DENSE)])
    layers = drawn[0].axes[1]
    assert [[bar.get_width() for bar in kind] for kind in layers.containers] == [[0, 7], [0, 0], [0, 0], [0, 25]]
    comparison_picture([summarize('base', DENSE)])
    assert [axes.get_title('left') for axes in drawn[1].axes] == ['parameters']


def test_layers_of_one(drawn):
    layers_picture(summarize('slim', SLIM))
    attention, mlp, norm = drawn[0].axes[0].containers
    assert attention[20].get_height() + mlp[20].get_height() + norm[20].get_height() == SLIM['layers'][20]['total']
    assert norm[20].get_y() + norm[20].get_height() == SLIM['layers'][20]['total']
    readable(drawn[0])


def test_nothing_is_drawn_of_nothing():
    empty = structure('empty', [])
    assert retention_picture([summarize('base', DENSE)]) is None and comparison_picture([]) is None
    assert layers_picture(summarize('empty', empty)) is None and pictures_of(empty, empty) == {}


def test_files_of_one_model():
    drawn = pictures_of(SHORT, DENSE)
    assert list(drawn) == ['layer_parameters.png', 'layer_retention.png']
    assert all(png[:4] == b'\x89PNG' for png in drawn.values())
