"""The schema of ink, default by default, and tasks of others."""

import pytest

from vadslim.cli import UserError
from vadslim.staged import tasks
from vadslim.staged.schema import Schema, nest, whole
from vadslim.staged.settings import resolve
from vadslim.staged.tasks import COMMON, INK, register_task, schema_of

DEFAULTS = {
    'seed': 0,
    'model': {'embed_dim': 128, 'num_layers': 4, 'decoder_dim': 16, 'full_heads': True, 'freeze_encoder': False},
    'training': {
        'lr': 1e-3,
        'batch_size': 32,
        'epochs': 50,
        'epoch_length': 10000,
        'weight_decay': 1e-4,
        'grad_clip': 1.0,
        'scheduler': 'onecycle',
        'total_steps': None,
        'save_dir': 'checkpoints',
        'save_interval': 5,
        'keep_last_n': 3,
        'loss_weights': {'skeleton': 10.0, 'keypoints': 5.0, 'tangent': 1.0, 'width': 1.0, 'offset': 1.0},
        'curriculum': {'enabled': False, 'start_stage': 0, 'end_stage': 6, 'epochs_per_stage': 8},
        'mask_ratio': 0.6,
        'mask_strategy': 'block',
    },
    'data': {'img_size': 64, 'num_workers': 4, 'rust_threads': 4, 'curriculum_stage': 0},
    'logging': {'log_interval': 10, 'vis_interval': 2, 'tensorboard_dir': 'runs'},
    'device': {'type': None},
}


def test_the_defaults_of_ink():
    assert nest(INK.defaults()) == DEFAULTS


def test_every_default_is_allowed():
    assert INK.check(DEFAULTS, str) == INK.defaults()
    assert INK.problem(INK.defaults()) is None


@pytest.fixture
def no_more_tasks(monkeypatch):
    monkeypatch.setattr(tasks, 'TASKS', dict(tasks.TASKS))


def test_another_task_brings_its_own(no_more_tasks, tmp_path):
    register_task('toy', Schema({**COMMON, 'training.epochs': whole(7), 'model.depth': whole(2)}))
    (tmp_path / 'c.yaml').write_text('task: toy\nmodel: {depth: 3}\n')
    (stage,) = resolve(tmp_path / 'c.yaml').stages
    assert stage.settings['model'] == {'depth': 3} and stage.settings['training']['epochs'] == 7
    assert stage.settings['task'] == 'toy'
    (tmp_path / 'c.yaml').write_text('task: toy\nmodel: {deep: 128}\n')
    with pytest.raises(UserError, match=r'c.yaml:2: model.deep: there is no such setting; the nearest is model.depth'):
        resolve(tmp_path / 'c.yaml')


def test_modules_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'needy_task.py').write_text('import no_such_package\n')
    for name in ('no_such_task', 'no_such_task.inner'):
        with pytest.raises(UserError, match=f'--import {name}: no such module'):
            tasks.import_tasks([name])
    with pytest.raises(ModuleNotFoundError, match='no_such_package'):
        tasks.import_tasks(['needy_task'])


def test_tasks_that_cannot_be(no_more_tasks):
    with pytest.raises(ValueError, match='ink is there already'):
        register_task('ink', INK)
    with pytest.raises(ValueError, match='task toy: the schema lacks .*training.lr'):
        register_task('toy', Schema({'model.depth': whole(2)}))
    with pytest.raises(UserError, match="c.yaml:1: task is 'inc'; known are ink; the nearest is ink"):
        schema_of('inc', 'c.yaml:1')
    with pytest.raises(UserError, match='task is None'):
        schema_of(None, 'c.yaml:1')


# --- what the recipe of ink makes of them -------------------------------------------------------------------

OTHER = {
    'training.scheduler': 'cosine',
    'training.total_steps': 10**6,
    'training.grad_clip': None,
    'training.save_dir': 'elsewhere',
    'training.mask_strategy': 'random',
    'logging.tensorboard_dir': None,
    'model.full_heads': False,
}
# the predecessor's generator's; 64 alone is drawn; for mixed precision, where there is CUDA
WITHOUT_EFFECT = {'data.rust_threads', 'data.img_size', 'device.type'}


@pytest.mark.parametrize('key', sorted(set(INK.settings) - WITHOUT_EFFECT))
def test_no_setting_is_without_effect(key):
    pytest.importorskip('tensorboard')
    from vadslim.examples.ink.recipe import to_config

    base = INK.defaults()
    if key.startswith('training.curriculum.'):
        base['training.curriculum.enabled'] = True
    if key.startswith('training.mask_'):
        base['model.full_heads'] = False  # the dense stage sees whole images
    changed = dict(base)
    if key in OTHER:
        changed[key] = OTHER[key]
    elif INK.settings[key].kind is bool:
        changed[key] = not base[key]
    else:
        changed[key] = base[key] + 1 if INK.settings[key].kind is int else base[key] / 2 + 0.25
    stage = {'name': 'a', 'init_from': None}
    assert to_config(nest(changed), stage) != to_config(nest(base), stage)


def test_curves_of_two_runs_are_apart():
    pytest.importorskip('tensorboard')
    from vadslim.examples.ink.recipe import to_config

    settings = nest({**INK.defaults(), 'training.save_dir': 'work/lr=0.1', 'logging.tensorboard_dir': 'curves'})
    (backend,) = to_config(settings, {'name': 'dense', 'init_from': None})['visualizer']['vis_backends']
    assert backend['save_dir'] == 'curves/lr=0.1/dense'
