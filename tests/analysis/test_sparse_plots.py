"""Pictures of sparse training show the numbers, and every text in them can be read."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from sparse_runs import level, write_predecessor, write_run

from vadslim.analysis import sparse_plots
from vadslim.analysis.sparse_plots import (
    comparison_picture,
    density_picture,
    evolution_picture,
    lambda_picture,
    weights_picture,
)
from vadslim.analysis.sparse_results import collect
from vadslim.analysis.sparse_summary import methods

LONG = [f'backbone.layer{stage}.{block}.residual_branch.conv1.weight' for stage in range(2) for block in range(3)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures in place of their files."""
    figures = []
    monkeypatch.setattr(sparse_plots, 'to_png', lambda figure: figures.append(figure) or b'png')
    return figures


def many(folder, count=21, **settings):
    levels = [level(k, 95.0 - 0.1 * k * k, 4, LONG, 0.8, bool(k) * 1.0) for k in range(count)]
    return write_run(folder, levels, **settings)


def readable(figure):
    """Fails if two texts cover each other, or one leaves the figure."""
    FigureCanvasAgg(figure).draw()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:  # kept by Matplotlib, not drawn
                tick.label1.set_visible(False)
                tick.label2.set_visible(False)
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [text.get_window_extent() for text in texts]
    low, high = (np.array([getattr(box, corner) for box in boxes]) for corner in ('min', 'max'))
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # pixels
    hidden = np.triu((shared > 1).all(-1), 1)
    assert [(texts[a].get_text(), texts[b].get_text()) for a, b in np.argwhere(hidden)] == []
    beyond = ((low < -1) | (high > figure.bbox.max + 1)).any(-1)
    assert [texts[a].get_text() for a in np.flatnonzero(beyond)] == []


PICTURES = (evolution_picture, lambda_picture, density_picture)


@pytest.mark.parametrize('count', [1, 21])
def test_every_text_of_a_run_can_be_read(tmp_path, drawn, count):
    (run,) = collect([many(tmp_path / 'a_run_with_a_long_name_of_which_not_all_fits', count)])
    for picture in PICTURES:
        picture(run)
    assert len(drawn) == (2 if count == 1 else 3)
    for figure in drawn:
        readable(figure)


def test_every_text_of_a_comparison_can_be_read(tmp_path, drawn):
    for arch, struct, seed in itertools.product(('res20s', 'vit_tiny'), ('imp', 'refill', 'rsst'), (0, 1)):
        folder = tmp_path / f'{arch}{struct}{seed}'
        write_run(folder, [90.0, 89.0 + seed, 80.0], arch=arch, struct=struct, seed=seed)
    grouped = methods(collect([tmp_path]))
    assert comparison_picture(grouped) == weights_picture(grouped) == b'png'
    for figure in drawn:
        readable(figure)


def test_bars_end_at_the_means(tmp_path, drawn):
    for seed, test in ((0, 80.0), (1, 84.0)):
        write_run(tmp_path / f'{seed}', [95.0, test], seed=seed)
    comparison_picture(methods(collect([tmp_path])))
    (axes,) = drawn[0].axes
    (bar,) = axes.patches
    assert bar.get_x() + bar.get_width() == 82.0 and axes.get_xlim() == (bar.get_x(), 100)
    assert f'the axis begins at {bar.get_x():.0f}' in axes.get_xlabel()
    texts = [text.get_text() for text in axes.texts]
    assert texts == ['82.00 ± 2.83 (2) at 80 % of the weights']
    assert axes.get_title('right') == 'dashed: dense, 95.00 ± 0.00 (2)'
    write_run(tmp_path / '2', [95.0, 12.0], seed=2, struct='imp')
    comparison_picture(methods(collect([tmp_path])))
    assert drawn[1].axes[0].get_xlim() == (0, 100)


def test_lines_of_methods(tmp_path, drawn):
    for struct, (seed, test) in itertools.product(('imp', 'rsst'), ((0, 80.0), (1, 84.0))):
        write_run(tmp_path / f'{struct}{seed}', [95.0, test], struct=struct, seed=seed)
    write_run(tmp_path / 'dense', [99.0], struct='dense', seed=2)
    weights_picture(methods(collect([tmp_path])))
    (axes,) = drawn[0].axes
    lines = [container.lines[0] for container in axes.containers]
    assert [container.get_label() for container in axes.containers] == ['imp (2 runs)', 'rsst (2 runs)']
    assert all(list(line.get_xdata()) == [100.0, 80.0] and list(line.get_ydata()) == [95.0, 82.0] for line in lines)
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 2
    low, high = axes.get_ylim()
    assert low < 82 - 2.83 and high > 97 and axes.get_xlim()[0] > axes.get_xlim()[1]  # whiskers, dense


def test_lambda_of_all_levels(tmp_path, drawn):
    (run,) = collect([write_run(tmp_path, [level(k, epochs=3, reg_lambda=k * 1.0) for k in range(3)])])
    lambda_picture(run)
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in drawn[0].axes[0].lines]
    assert lines[2] == ([7, 8, 9], pytest.approx([2 / 3, 4 / 3, 2])) and len(lines) == 3
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ['0', '1', '2', 'level']


def test_density_by_layer_and_level(tmp_path, drawn):
    later = level(1, density={'a.weight': 0.004, 'b.weight': 1.0})
    (run,) = collect([write_run(tmp_path, [level(0, density={'b.weight': 1.0}), later])])
    density_picture(run)
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['b', 'a']
    assert [text.get_text() for text in axes.texts] == ['100', '100', '0.40']  # a is not known at level 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ['0\n100', '1\n80.0']


def test_nothing_is_drawn_of_nothing(tmp_path):
    write_run(tmp_path / 'a', [{'level': 0}])
    (run,) = collect([tmp_path])
    assert [picture(run) for picture in PICTURES] == [None, None, None]
    grouped = methods([run])
    assert comparison_picture(grouped) is None and weights_picture(grouped) is None


def test_pictures_of_the_predecessors_run(tmp_path):
    (run,) = collect([write_predecessor(tmp_path)])
    evolution, penalty, density = (picture(run) for picture in PICTURES)
    assert evolution[:4] == density[:4] == b'\x89PNG' and penalty is None
