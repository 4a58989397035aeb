"""Stages of Python configs: MMEngine configs with values put over them."""

import re
import textwrap
from pathlib import Path

import pytest

from vadslim.cli import UserError
from vadslim.staged.settings import resolve
from vadslim.testing import write_toy_config

STAGES = """
_base_ = 'toy.py'
stages = [
    dict(name='first', epochs=3, model=dict(hidden=4), optim_wrapper=dict(optimizer=dict(lr=0.5))),
    dict(name='pruned', kind='prune', options=dict(pruning_ratio=0.5)),
    dict(name='other', config='sub/other.py', init_from='x.pth', **{'model.hidden': 6}),
    dict(name='new', model=dict(_delete_=True, type='vadslim.ToyNet')),
]
"""


@pytest.fixture
def config(tmp_path):
    write_toy_config(tmp_path / 'toy.py', tmp_path / 'run')
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'other.py').write_text("_base_ = '../toy.py'\ntrain_cfg = dict(max_epochs=11)\n")

    def writer(text=STAGES, name='c.py'):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path / name

    return writer


def test_stages(config, tmp_path):
    plan = resolve(config())
    first, pruned, other, new = plan.stages
    assert plan.task is None
    assert first.settings['model']['hidden'] == 4 and first.settings['train_cfg']['max_epochs'] == 3
    assert first.settings['optim_wrapper']['optimizer']['lr'] == 0.5
    assert 'type' in first.settings['optim_wrapper']['optimizer']  # merged, not replaced
    assert (pruned.kind, pruned.options) == ('prune', {'pruning_ratio': 0.5})
    assert other.settings['train_cfg']['max_epochs'] == 11 and other.settings['model']['hidden'] == 6
    assert (other.init_from, other.folder) == ('x.pth', tmp_path / 'run' / 'other')
    assert other.settings['work_dir'] == str(tmp_path / 'run' / 'other')
    assert new.settings['model'] == {'type': 'vadslim.ToyNet'}
    assert all('stages' not in stage.settings for stage in plan.stages)
    assert first.settings['train_dataloader'] is not pruned.settings['train_dataloader']


def test_options_from_the_command_line(config):
    over = {
        'stages.pruned.options.pruning-ratio': '0.25',
        'stages.pruned.options.protect': '[a, b]',
        'stages.pruned.options.fine_tune': 'true',
        'stages.pruned.options.cfg_options.model.hidden': '5',
        'stages.pruned.options.cfg_options.seed_of-x': '1e-3',
    }
    options = {'pruning_ratio': 0.25, 'protect': ['a', 'b'], 'fine_tune': True}
    options['cfg_options'] = {'model.hidden': 5, 'seed_of-x': 0.001}
    path = config()
    assert resolve(path, over).stages[1].options == options
    assert resolve(path).stages[1].options == {'pruning_ratio': 0.5}
    for key, value, words in [
        ('first.options.x', '1', 'a stage that is not of kind train'),
        ('pruned.options', '1', 'such as stages.pruned.options.NAME=VALUE'),
        ('pruned.options.pruning_ratio.x', '1', 'pruning_ratio is 0.5, which has no keys'),
        ('pruned.options.protect', '[a', '--set stages.pruned.options.protect=[a: '),
    ]:
        with pytest.raises(UserError, match=re.escape(words)):
            resolve(path, {f'stages.{key}': value})


def test_the_command_line_counts_most(config):
    over = {
        'training.lr': '1e-2',
        'training.epochs': '9',
        'training.batch_size': '3',
        'data.num_workers': '0',
        'seed': '7',
        'device.type': 'cpu',
        'training.save_dir': 'out',
        'model.hidden': '5',
        'stages.other.model.hidden': '7',
        'stages.pruned.epochs': '2',
    }
    first, pruned, other, _ = (stage for stage in resolve(config(), over).stages)
    settings = first.settings
    assert settings['optim_wrapper']['optimizer']['lr'] == 1e-2 and settings['train_cfg']['max_epochs'] == 9
    assert settings['train_dataloader']['batch_size'] == 3 and settings['val_dataloader']['num_workers'] == 0
    assert settings['randomness']['seed'] == 7
    assert (first.device, first.folder) == ('cpu', Path('out/first'))
    assert (settings['model']['hidden'], other.settings['model']['hidden']) == (5, 7)
    assert pruned.settings['train_cfg']['max_epochs'] == 2


def test_configs_that_import_their_base(config, tmp_path):
    """Types are classes there; in a stage's settings they are names, as in other configs."""
    config(
        """
        from vadslim.testing import ToyNet
        model = dict(type=ToyNet, hidden=4)
        train_cfg = dict(max_epochs=2)
        stages = [dict(name='a'), dict(name='b', epochs=3, model=dict(hidden=5))]
        """,
        'lazy_base.py',
    )
    file = config("""
        from mmengine.config import read_base
        with read_base():
            from .lazy_base import *
        train_cfg.update(max_epochs=7)
    """)
    a, b = (stage.settings for stage in resolve(file, {'work_dir': str(tmp_path)}).stages)
    assert a['model'] == {'type': 'vadslim.testing.ToyNet', 'hidden': 4} and b['model']['hidden'] == 5
    assert (a['train_cfg']['max_epochs'], b['train_cfg']['max_epochs']) == (7, 3)


SCHEDULES = """
_base_ = 'toy.py'
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, begin=0, end=8),
    dict(type='CosineAnnealingLR', begin=2, T_max=6, end=8),
    dict(type='CosineAnnealingLR', eta_min=0),
    dict(type='MultiStepLR', milestones=[3, 6]),
]
train_cfg = dict(max_epochs=8)
stages = [dict(name='a'), dict(name='b', epochs=5)]
"""


def test_schedules_that_end_with_the_training_go_on_doing_so(config):
    schedules = resolve(config(SCHEDULES)).stages[0].settings['param_scheduler']
    for epochs, left in (('20', 1), ('5', 1), ('1', 2), ('8', 0)):
        plan = resolve(config(SCHEDULES), {'training.epochs': epochs})
        for stage in plan.stages:
            warmup, cosine, endless, steps = stage.settings['param_scheduler']
            assert [warmup, endless, steps] == [schedules[0], *schedules[2:]]
            end = 8 if epochs == '1' else int(epochs)
            assert (cosine['begin'], cosine['end'], cosine['T_max']) == (2, end, end - 2)
        lines = plan.stages[0].notes
        assert len(lines) == (0 if epochs == '8' else 1 if epochs == '20' else 2)
        assert sum('left as it is' in line for line in lines) == (0 if epochs in ('8', '20') else left)
    plan = resolve(config(SCHEDULES))
    assert plan.stages[1].settings['param_scheduler'][1]['T_max'] == 3  # the stage's own epochs
    line, _ = plan.stages[1].notes
    assert line == ('param_scheduler CosineAnnealingLR: end and T_max changed to end with epoch 5, as with 8 before')


def test_names_of_parameters_have_dots(config):
    """Under custom_keys; and what a stage changes in a list is its own."""
    file = config("""
        _base_ = 'toy.py'
        stages = [
            dict(name='a', optim_wrapper=dict(paramwise_cfg=dict(custom_keys={'ffn.0': dict(lr_mult=0.5)})),
                 **{'custom_hooks.0.type': 'EMAHook'}),
            dict(name='b'),
        ]
    """)
    a, b = (stage.settings for stage in resolve(file).stages)
    before = b['optim_wrapper']['paramwise_cfg']['custom_keys']
    assert a['optim_wrapper']['paramwise_cfg']['custom_keys'] == {**before, 'ffn.0': {'lr_mult': 0.5}}
    assert (a['custom_hooks'][0]['type'], b['custom_hooks'][0]['type']) == ('EMAHook', 'vadslim.RandomStateHook')


def test_a_new_type_brings_its_arguments(config):
    """momentum is SGD's, wherever it stands beside the type; betas were AdamW's."""
    text = "_base_ = 'toy.py'\nstages = [dict(name='a', optim_wrapper=dict(optimizer=dict({}, type='SGD')))]"
    (stage,) = resolve(config(text.format('momentum=0.9'))).stages
    assert stage.settings['optim_wrapper']['optimizer']['momentum'] == 0.9
    with pytest.raises(UserError, match='stages.a: optim_wrapper.optimizer.betas: there is no such key'):
        resolve(config(text.format('betas=(0.9, 0.99)')))


def test_a_checkpoint_that_does_not_fit(config):
    with pytest.raises(UserError, match='stages.first: over the checkpoint: '):
        resolve(config(), {}, {'model': {'type': 'x'}, 'train_cfg': 3}, 'first')


def test_extends_and_the_stages_of_the_base(config):
    config()
    file = config("extends = 'c.py'\nstages = [dict(name='first', epochs=4), dict(name='last')]", 'd.py')
    plan = resolve(file)
    assert [stage.name for stage in plan.stages] == ['first', 'pruned', 'other', 'new', 'last']
    assert plan.stages[0].settings['train_cfg']['max_epochs'] == 4
    assert plan.stages[0].settings['model']['hidden'] == 4


def test_resume(config):
    file = config()
    ran = resolve(file, {'model.hidden': '5'}).stages[0]
    (again,) = resolve(None, {}, ran.settings, 'first').stages
    assert again.settings['model']['hidden'] == 5
    changed = resolve(file, {'training.lr': '1'}, ran.settings, 'first').stages
    assert changed[0].settings['model']['hidden'] == 4  # the stage of --config counts more than the checkpoint
    assert changed[0].settings['optim_wrapper']['optimizer']['lr'] == 1.0
    assert changed[1].settings['model'].get('hidden') != 5


def test_a_checkpoint_of_the_other_kind(config):
    plan = resolve(config(), {}, {'training': {'lr': 1}}, 'first')
    assert len(plan.notes) == 1 and plan.stages[0].settings['optim_wrapper']['optimizer']['lr'] == 0.5


def test_stages_of_other_files_alone(config, tmp_path):
    file = config("stages = [dict(name='a', config='toy.py'), dict(name='b', config='sub/other.py')]")
    a, b = resolve(file).stages
    assert a.settings['model']['type'] == b.settings['model']['type'] == 'vadslim.ToyNet'
    assert b.settings['train_cfg']['max_epochs'] == 11 != a.settings['train_cfg']['max_epochs']


def test_a_python_config_may_have_sections(config):
    file = config("training = dict(lr=1)\nstages = [dict(name='a', training=dict(epochs=2))]")
    plan = resolve(file)
    assert plan.task == 'ink' and plan.stages[0].settings['training']['epochs'] == 2
    with pytest.raises(UserError, match='c.py: training.lrr: there is no such setting; the nearest is training.lr'):
        resolve(config('training = dict(lrr=1)'))


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ('epoch=3', 'stages.a: epoch: there is no such key; the nearest is epochs'),
        ("init_form='x'", 'stages.a: init_form: there is no such key; the nearest is init_from'),
        ('model=dict(hiden=3)', 'stages.a: model.hiden: there is no such key; the nearest key is model.hidden'),
        ('modle=dict(hidden=3)', 'stages.a: modle.hidden: there is no such key; the nearest key is model.hidden'),
        ("epochs='3x'", 'stages.a: epochs 3x: a whole number of at least 1 is needed'),
        ('config=3', 'stages.a: config is 3; the path of a Python config is needed'),
        ("config='none.py'", 'none.py: no such config'),
        ("kind='tset'", "stages.a: kind is 'tset'; .* the nearest is test"),
    ],
)
def test_entries_that_are_refused(config, entry, message):
    file = config(f"_base_ = 'toy.py'\nmodel = dict(hidden=8)\nstages = [dict(name='a', {entry})]\n")
    with pytest.raises(UserError, match=message) as error:
        resolve(file)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('key', 'text', 'message'),
    [
        ('training.lr', 'fast', '--lr fast: a number above 0 is needed'),
        ('device.type', 'gpu', '--device gpu: one of cuda, cpu, or null is needed'),
        ('model.hiddn', '3', '--set model.hiddn: there is no such key; the nearest key is model.hidden'),
        ('model.hidden', '[1', '--set model.hidden=.1: .*flow sequence'),
        ('training.weight_decay', '1', '--set training.weight_decay: there is no such key'),
    ],
)
def test_command_lines_that_are_refused(config, key, text, message):
    with pytest.raises(UserError, match=message):
        resolve(config("_base_ = 'toy.py'\nmodel = dict(hidden=8)\n"), {key: text})
