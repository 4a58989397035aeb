"""tools/misc/browse_dataset.py: what the pipeline gives the network."""

import cv2
import numpy as np

from vadslim import browse, cli


def run(config, out, *more) -> int:
    return cli.run(browse.main, [str(part) for part in [config, '--output-dir', out, '--dpi', 40, *more]])


def test_pictures_of_both_splits(nano_config, tmp_path, capsys):
    accepted = ['--not-show', '--show-interval', '1', '--task', 'det', '--aug', '--online']
    for split in ('train', 'val'):
        assert run(nano_config, tmp_path / split, '--split', split, '--interval', 20, *accepted) == 0
        assert 'written: 2 pictures' in capsys.readouterr().err
        first, second = sorted((tmp_path / split).iterdir())
        assert first.name[:7] == '000000_' and second.name[:7] == '000020_'
        assert cv2.imread(str(first)) is not None


def test_augmented_images_are_shown(nano_config, tmp_path):
    """Images at half their scale show the same scene, in coarser pixels."""
    scale = 'train_dataloader.dataset.pipeline.1.scales=[0.2]'
    assert run(nano_config, tmp_path / 'a', '--max-frames', 1) == 0
    assert run(nano_config, tmp_path / 'b', '--max-frames', 1, '--cfg-options', scale) == 0
    assert run(nano_config, tmp_path / 'c', '--max-frames', 1, '--skip-type', 'CustomObjectRangeFilter') == 0
    a, b, c = (cv2.imread(str(next((tmp_path / name).iterdir()))).astype(int) for name in 'abc')
    assert a.shape == b.shape == c.shape
    assert 0 < abs(a - b).mean() < 10
    assert np.any(a != c)


def test_mistakes(nano_config, tmp_path, capsys):
    assert run(nano_config, tmp_path, '--skip-type', 'Flip') == 2
    assert 'error: --skip-type Flip: the pipeline has VADLoadMultiViewImages' in capsys.readouterr().err
    assert run(tmp_path / 'none.py', tmp_path) == 2
    assert 'no such config' in capsys.readouterr().err
