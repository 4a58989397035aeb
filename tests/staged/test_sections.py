"""The layers of a stage's settings, one over the other."""

import pytest

from vadslim.cli import UserError
from vadslim.staged.extends import Source
from vadslim.staged.sections import Sections, command_line
from vadslim.staged.tasks import INK


def sections(data=None, task=None, **lines):
    return Sections(Source('c.yaml', data or {}, lines), task, ('epochs',))


def test_the_layers():
    content = sections({'training': {'lr': 2, 'batch_size': 2, 'epochs': 2}})
    saved = {'training': {'lr': 1, 'weight_decay': 1}}
    made = content.stage('a', {'training': {'batch_size': 3, 'epochs': 3}}, {'training.epochs': '4'}, saved)
    training = made['training']
    assert [training[key] for key in ('weight_decay', 'lr', 'batch_size', 'epochs')] == [1, 2, 3, 4]
    assert content.notes == []


def test_the_task_of_the_checkpoint_is_taken():
    assert sections(task='ink').task == sections({'task': 'ink'}).task == sections().task == 'ink'
    with pytest.raises(UserError, match="task is 'other'"):
        sections(task='other')


def test_errors_say_where():
    with pytest.raises(UserError, match='^base.yaml:7: training.lr is 0'):
        sections({'training': {'lr': 0}}, **{'training.lr': 'base.yaml:7'})
    content = sections(**{'stages.a': 'c.yaml:2', 'stages.a.training': 'c.yaml:3'})
    with pytest.raises(UserError, match='^c.yaml:3: stages.a: training.lr is 0'):
        content.stage('a', {'training': {'lr': 0}}, {}, {})
    content = sections({'data': {'img_size': 32}}, **{'data.img_size': 'base.yaml:7', 'stages.a': 'c.yaml:2'})
    for entry, over, place in (
        ({}, {}, 'base.yaml:7'),
        ({'data': {'img_size': 32}}, {}, 'c.yaml:2: stages.a'),
        ({'data': {'img_size': 48}}, {'data.img_size': '32'}, '--set data.img_size'),
    ):
        with pytest.raises(UserError, match=f'^{place}: data.img_size is 32; strokes are drawn on 64 x 64 pixels$'):
            content.stage('a', entry, over, {})


def test_typed_values_of_the_command_line_are_checked_too():
    assert command_line(INK, {'training.lr': 1, 'device.type': None}) == {'training.lr': 1.0, 'device.type': None}
    with pytest.raises(UserError, match='^--lr True: a number above 0'):
        command_line(INK, {'training.lr': True})
