"""The normalisation of images, out of config texts that are never executed; warnings of the three commands."""

import itertools

import pytest
import torch
from mmengine.config import Config

from checkpoint_files import MMCV_CONFIG, mmcv_like
from vadslim import cli, evaluate, experiment, train
from vadslim.checkpoint import load_checkpoint
from vadslim.image_norm import ImageNorm, norm_of_config, norm_of_text
from vadslim.testing import ToyNet, write_toy_config

CAFFE = ImageNorm((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)
TORCH = ImageNorm((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
NAMES = itertools.count()


def test_the_pipeline_of_mmcv_1_counts_more_than_a_variable():
    assert norm_of_text(MMCV_CONFIG) == CAFFE
    assert norm_of_text('img_norm_cfg = dict(mean=[1, 2, 3], std=[1, 1, 1])') == ImageNorm((1, 2, 3), (1, 1, 1), True)
    literal = "data = {'train': {'pipeline': [{'type': 'Normalize', 'mean': [-1.5], 'std': (2,), 'to_rgb': False}]}}"
    assert norm_of_text(literal) == ImageNorm((-1.5,), (2.0,), False)


def test_mmengine_texts_of_our_own_configs():
    cfg = Config.fromfile('configs/VAD/VAD_tiny_stage_2.py', import_custom_modules=False)
    assert norm_of_text(cfg.pretty_text) == norm_of_config(cfg._cfg_dict) == TORCH
    slim = Config({'model': {'type': 'vadslim.SlimModel', 'architecture': cfg.model}})
    assert norm_of_text(slim.pretty_text) == TORCH
    assert norm_of_text(Config({'data_preprocessor': {**CAFFE.to_dict(), 'type': 'X'}}).pretty_text) == CAFFE


@pytest.mark.parametrize(
    'text',
    [
        None,
        3,
        '',
        'img_norm_cfg = dict(mean=[1, 2], std=[1, 1, 1])',
        "img_norm_cfg = dict(mean='abc', std='abc')",
        'img_norm_cfg = dict(mean=[1e999, 1, 1], std=[1, 1, 1])',
        'img_norm_cfg = dict(mean=[open("x")], std=[1])',
        'img_norm_cfg = make(mean=[1], std=[1])',
        'this is no Python',
        'a = ' + '(' * 100_000,
        'a = ' + '-' * 100_000 + '1',
        'a = ' + '[' * 150 + ']' * 150,
        'a = ' + 'x.' * 100_000 + 'y',
        'img_norm_cfg = dict(mean=[1], std=[1])\n' + '#' * 3_000_000,
        '\x00',
    ],
    ids=range(15),
)
def test_texts_that_say_nothing(text):
    assert norm_of_text(text) is None


def test_a_text_does_not_run(tmp_path):
    canary = tmp_path / 'ran'
    text = f"open({str(canary)!r}, 'w')\nimg_norm_cfg = dict(mean=[1], std=[open({str(canary)!r}, 'w') and 1])\n"
    checkpoint = {'meta': {'config': text, 'cfg': MMCV_CONFIG}, 'state_dict': {'a': torch.zeros(1)}}
    torch.save(checkpoint, tmp_path / 'a.pth')
    assert load_checkpoint(tmp_path / 'a.pth')['meta'] == {'image_norm': CAFFE.to_dict()}
    assert not canary.exists()


def test_closeness():
    assert CAFFE.is_close(ImageNorm((103.5300, 116.2799, 123.6751), (1, 1, 1), False))
    for other in (TORCH, ImageNorm(CAFFE.mean, CAFFE.std, True), ImageNorm((1.0,), (1.0,), False)):
        assert not CAFFE.is_close(other)


# --- the commands --------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A config whose model normalises, and a checkpoint of mmcv 1 that was trained otherwise."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    experiment._note_once.cache_clear()
    preprocessor = {'type': 'ImgDataPreprocessor', **TORCH.to_dict()}
    model = {'type': 'vadslim.ToyNet', 'data_preprocessor': preprocessor}
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'run', epochs=1, model=model)
    torch.save(mmcv_like(ToyNet()), tmp_path / 'epoch_2.pth')
    return config, tmp_path / 'epoch_2.pth'


def run(main, *argv):
    return cli.run(main, [*map(str, argv), *options(f'experiment_name=norm_{next(NAMES)}')])


def options(*texts):
    return ['--cfg-options', *texts]


def enough(*args):
    raise cli.UserError('what comes after is not tested here')


@pytest.mark.parametrize('command', ['test', 'train', 'prune'])
def test_each_command_warns_once_and_its_advice_is_right(toy, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr('mmengine.runner.Runner.test', lambda self: {})
    monkeypatch.setattr('mmengine.runner.Runner.train', lambda self: None)
    config, checkpoint = toy

    def warnings(*more):
        if command == 'test':
            assert run(evaluate.main, config, checkpoint, '--work-dir', tmp_path / 'w', *more) == 0
        elif command == 'train':
            assert run(train.main, config, '--load-from', checkpoint, '--work-dir', tmp_path / 'w', *more) == 0
        else:
            from vadslim.slimming import main

            monkeypatch.setattr('vadslim.slimming.network._build', enough)
            args = [config, checkpoint, '--pruning-ratio', '0.5', '--output-dir', tmp_path / 'out', *more]
            assert main(list(map(str, args))) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('warning: ')]
        return [line for line in lines if 'other images than the config makes' in line]

    (line,) = warnings()
    assert str(checkpoint) in line and 'mean [103.53, 116.28, 123.675], std [1.0, 1.0, 1.0], bgr_to_rgb False' in line
    advice = line.partition('--cfg-options ')[2].replace('"', '').split()
    assert len(advice) == 3
    assert warnings(*options(*advice)) == []


def test_a_slim_file_and_a_slim_config(toy, capsys):
    config, checkpoint = toy
    cfg = Config.fromfile(config)
    cfg = Config({'model': {'type': 'vadslim.SlimModel', 'architecture': cfg.model}})
    experiment.note_image_norm(cfg, load_checkpoint(checkpoint), 'slim.pth')
    assert '--cfg-options model.architecture.data_preprocessor.mean="[103.53,' in capsys.readouterr().err
    experiment.note_image_norm(cfg, {'meta': {'image_norm': 'forged'}}, 'forged.pth')
    experiment.note_image_norm(cfg, {'meta': {'config_json': '{"model": 3'}}, 'forged.pth')
    experiment.note_image_norm(cfg, {'meta': None}, 'forged.pth')
    experiment.note_image_norm(Config({'model': {}}), load_checkpoint(checkpoint), 'other.pth')
    assert capsys.readouterr().err == ''
    plain = '{"model": {"data_preprocessor": {"mean": {"__tuple__": [1, 2, 3]}, "std": [1, 1, 1]}}}'
    experiment.note_image_norm(cfg, {'meta': {'config_json': plain}}, 'ours.pth')
    assert 'mean [1.0, 2.0, 3.0]' in capsys.readouterr().err
