"""The table of a task: kinds, ranges, and what an unknown key may have meant."""

import math

import pytest

from vadslim.cli import UserError
from vadslim.staged.schema import Schema, flag, nest, number, text, whole

TOY = Schema(
    {
        'seed': whole(0, low=0, high=10),
        'model.deep': flag(True),
        'model.size': whole(3, optional=True),
        'training.lr': number(0.1, above=True),
        'training.ratio': number(0.5, high=1, below=True),
        'training.plan.steps': whole(1),
        'training.plan.kind': text('cosine', 'cosine', 'constant'),
        'logging.folder': text('runs', optional=True),
    }
)


def check(data):
    return TOY.check(data, lambda key: 'c.yaml:1')


def test_the_table():
    assert TOY.sections == ['logging', 'model', 'training', 'training.plan']
    assert nest(TOY.defaults()) == {
        'seed': 0,
        'model': {'deep': True, 'size': 3},
        'training': {'lr': 0.1, 'ratio': 0.5, 'plan': {'steps': 1, 'kind': 'cosine'}},
        'logging': {'folder': 'runs'},
    }


def test_only_what_is_said_comes_back():
    assert check({'training': {'plan': {'steps': 3}}, 'seed': 1, 'model': None}) == {
        'training.plan.steps': 3,
        'seed': 1,
    }


@pytest.mark.parametrize(
    ('key', 'value', 'taken'),
    [
        ('training.lr', 1, 1.0),
        ('training.lr', '1e-3', 1e-3),  # in quotes, as old files have it
        ('training.lr', ' 5 ', 5.0),
        ('training.plan.steps', 1e4, 10_000),
        ('training.ratio', 0, 0.0),
        ('model.size', None, None),
        ('logging.folder', None, None),
        ('model.deep', False, False),
    ],
)
def test_values_that_are_taken(key, value, taken):
    found = TOY.value(key, value, 'c.yaml')
    assert found == taken and type(found) is type(taken)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('training.lr', 'fast', "'fast'; a number above 0 is needed"),
        ('training.lr', True, 'true; a number above 0'),
        ('training.lr', 0, '0; a number above 0'),
        ('training.lr', None, 'null; a number'),
        ('training.lr', math.nan, 'nan; '),
        ('training.lr', 'inf', "'inf'; "),
        ('training.lr', 10**400, '1000'),
        ('training.lr', [1], r'\[1\]; '),
        ('training.lr', {'a': 1}, '{.*; '),
        ('training.ratio', 1, 'a number of at least 0 and below 1'),
        ('training.plan.steps', 1.5, '1.5; a whole number of at least 1'),
        ('training.plan.steps', '3', "'3'; a whole number"),
        ('training.plan.steps', False, 'false; a whole number'),
        ('training.plan.kind', 'cos', "'cos'; one of cosine, constant"),
        ('model.deep', 1, '1; true or false'),
        ('model.deep', 'false', "'false'; true or false"),
        ('model.size', 0, 'a whole number of at least 1, or null'),
        ('logging.folder', ' ', "' '; a text, or null"),
        ('logging.folder', 3, '3; a text, or null'),
        ('logging.folder', 'a\0b', 'a text, or null'),
        ('seed', 11, '11; a whole number of at least 0 and at most 10'),
    ],
)
def test_values_that_are_refused(key, value, message):
    with pytest.raises(UserError, match=f'^c.yaml:1: {key} is .*{message}') as error:
        check(nest({key: value}))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ({'modle': {'deep': True}}, 'modle: there is no such setting; the nearest is model'),
        ({'lr': 1}, 'lr: there is no such setting; the nearest is training.lr'),
        ({'model': {'lr': 1}}, 'model.lr: .* training.lr'),
        ({'training': {'plan': {'step': 1}}}, 'training.plan.step: .* training.plan.steps'),
        ({'training': {'plans': {'steps': 1}}}, 'training.plans: .* training.plan'),
        ({'training': {'steps': 1}}, 'training.steps: .* training.plan.steps'),
        ({'training.lr': 1}, 'training.lr: write sections as mappings'),
        ({'training': 3}, 'training is 3; a mapping of settings is needed'),
        ({'training': []}, r'training is \[\]; a mapping'),
    ],
)
def test_unknown_keys(data, message):
    with pytest.raises(UserError, match=f'^c.yaml:1: {message}'):
        check(data)


def test_other_keys_are_suggested_too():
    with pytest.raises(UserError, match='the nearest is stages'):
        TOY.check({'stage': []}, str, ['stages'])


@pytest.mark.parametrize(
    ('key', 'text', 'value'),
    [
        ('training.lr', '1e-3', 1e-3),
        ('model.size', 'null', None),
        ('model.size', 'None', None),
        ('logging.folder', 'None', None),
        ('logging.folder', '12', '12'),
        ('model.deep', 'off', False),
        ('model.deep', 'True', True),
        ('training.plan.steps', '1_000', 1000),
    ],
)
def test_texts_of_the_command_line(key, text, value):
    found = TOY.settings[key].read(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(('key', 'text'), [('training.lr', 'x'), ('model.size', '[1'), ('training.plan.kind', 'None')])
def test_texts_that_are_refused(key, text):
    with pytest.raises(ValueError):
        TOY.settings[key].read(text)
