"""Pictures: their colours, the dashes of their strokes, and when they are drawn."""

from types import SimpleNamespace

import numpy as np
import pytest

from vadslim.cli import UserError
from vadslim.examples.ink import InkPictureHook, Strokes
from vadslim.examples.ink.pictures import colours, dashes, draw


def validated(dense=True):
    sample = Strokes(1, 4)[0]
    maps = {name: value for name, value in sample['targets'].items() if dense or name in ('skeleton', 'tangent')}
    return {'maps': maps, 'image': sample['inputs'], 'targets': sample['targets'], 'stage': 4}


def test_colours():
    skeleton = np.array([[[0, 1, 0.5, 0]]])
    ends = np.array([[[0, 0, 0, 1.0]], [[0, 0, 0, 0]]])
    picture = colours({'skeleton': skeleton, 'keypoints': ends})
    np.testing.assert_allclose(picture[0], [[1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5], [0.85, 0.1, 0.1]])


def test_dashes():
    """One pixel at row 2, column 3; the line rises by 90 degrees through a point a quarter to its right."""
    maps = {name: np.zeros((channels, 5, 5)) for name, channels in (('skeleton', 1), ('width', 1))}
    maps |= {'tangent': np.zeros((2, 5, 5)), 'offset': np.zeros((2, 5, 5))}
    maps['skeleton'][0, 2, 3], maps['width'][0, 2, 3] = 1, 3
    maps['tangent'][:, 2, 3], maps['offset'][:, 2, 3] = (-1, 0), (0.25, 0)
    (dash,) = dashes(maps)
    assert sorted(map(tuple, dash.round(6))) == [(1.75, 1.3), (1.75, 2.7), (4.75, 1.3), (4.75, 2.7)]


@pytest.mark.parametrize('dense, columns', [(True, 5), (False, 3)])
def test_columns(dense, columns):
    figure = draw([validated(dense)])
    assert len(figure.axes) == columns and figure.axes[0].get_ylabel() == 'stage 4'


def test_when(tmp_path):
    hook = InkPictureHook(interval=2, count=1)
    for epoch in range(1, 6):
        runner = SimpleNamespace(epoch=epoch, max_epochs=5, work_dir=tmp_path)
        hook.before_val_epoch(runner)
        for number in range(2):
            hook.after_val_iter(runner, number, outputs=[validated(dense=False)] * 2)
        kept = len(hook._samples)
        hook.after_val_epoch(runner)
        assert kept == (0 if epoch in (1, 3) else 1)
    assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == [
        'epoch_2.png',
        'epoch_4.png',
        'epoch_5.png',
    ]
    with pytest.raises(UserError, match='interval 0'):
        InkPictureHook(0)


def test_a_picture_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / 'pictures').write_text('a file')
    said = []
    runner = SimpleNamespace(epoch=2, max_epochs=2, work_dir=tmp_path, logger=SimpleNamespace(warning=said.append))
    hook = InkPictureHook()
    hook.after_val_iter(runner, 0, outputs=[validated()])
    hook.after_val_epoch(runner)
    assert len(said) == 1 and 'cannot be written' in said[0]
