"""Pictures among a run's curves, by the real Runner of tools/test.py and tools/train.py."""

import cv2
import pytest
import torch

from vadslim import cli, evaluate, train
from vadslim.checkpoint import save_checkpoint
from vadslim.vad.pictures import VADVisualizationHook

BACKENDS = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]


@pytest.fixture(scope='module')
def config(nano_config, tmp_path_factory):
    """Three frames; a picture of every other one, drawn with all that the untrained network says."""
    path = tmp_path_factory.mktemp('hook') / 'pictured.py'
    hook = dict(type='VADVisualizationHook', interval=2, dpi=40, score_thr=0.0, map_score_thr=0.0)
    path.write_text(
        f'_base_ = {str(nano_config)!r}\n'
        f"visualizer = dict(type='Visualizer', vis_backends={BACKENDS!r})\n"
        f'default_hooks = dict(visualization={hook!r})\n'
        'train_dataloader = dict(batch_size=1, dataset=dict(indices=[4]))\n'
        'val_dataloader = dict(dataset=dict(indices=3))\n'
        'test_dataloader = dict(dataset=dict(indices=3))\n'
        "val_evaluator = dict(tasks=['planning'])\n"
        'test_evaluator = val_evaluator\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
    )
    return path


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    argv = [str(config), '--work-dir', str(folder), '--cfg-options', 'experiment_name=pictures']
    assert cli.run(train.main, argv) == 0
    return folder


def tags(folder) -> tuple[set[str], set[str]]:
    """Names of the pictures and of the curves that TensorBoard shows."""
    event_accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    pictures, curves = set(), set()
    for file in folder.rglob('events.out.tfevents.*'):
        events = event_accumulator.EventAccumulator(str(file)).Reload().Tags()
        pictures |= set(events['images'])
        curves |= set(events['scalars'])
    return pictures, curves


def test_training_sends_pictures_of_validation(trained):
    pytest.importorskip('tensorboard')
    files = sorted(trained.rglob('vis_image/*.png'))
    assert [file.name for file in files] == ['val_0000_1.png', 'val_0002_1.png']  # after one iteration
    assert cv2.imread(str(files[0])).shape[1] > 500
    pictures, curves = tags(trained)
    assert pictures == {'val_0000', 'val_0002'} and 'plan_L2_3s' in ' '.join(curves)


def test_testing_sends_pictures(trained, config, tmp_path):
    pytest.importorskip('tensorboard')
    argv = [config, trained / 'latest.pth', '--work-dir', tmp_path, '--cfg-options', 'experiment_name=tested']
    assert cli.run(evaluate.main, [str(part) for part in argv]) == 0
    assert sorted(file.name for file in tmp_path.rglob('vis_image/*.png')) == ['test_0000_0.png', 'test_0002_0.png']
    assert tags(tmp_path)[0] == {'test_0000', 'test_0002'}


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_a_missing_package_is_one_line(tool, config, tmp_path, capsys, monkeypatch):
    wandb = tmp_path / 'wandb_offline.py'
    backend = dict(type='WandbVisBackend', init_kwargs=dict(mode='offline'))
    wandb.write_text(f"_base_ = {str(config)!r}\nvisualizer = dict(type='Visualizer', vis_backends=[{backend!r}])\n")
    monkeypatch.setattr('vadslim.experiment.find_spec', lambda package: None)
    save_checkpoint({'state_dict': {'weight': torch.zeros(1)}}, tmp_path / 'a.pth')
    main, more = (train.main, []) if tool == 'train' else (evaluate.main, [str(tmp_path / 'a.pth')])
    assert cli.run(main, [str(wandb), *more, '--work-dir', str(tmp_path / 'run')]) == 2
    assert 'error: visualizer.vis_backends: WandbVisBackend needs the package wandb' in capsys.readouterr().err


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match='interval=0'):
        VADVisualizationHook(interval=0)
    with pytest.raises(ValueError, match='dpi=3'):
        VADVisualizationHook(dpi=3)
