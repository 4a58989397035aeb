"""Grids: combinations, and names of folders."""

import re

import pytest

from vadslim.cli import UserError
from vadslim.staged.sweep import MAX_NAME, grid


def names(*texts):
    return [point.name for point in grid(texts)]


def test_a_grid():
    points = grid(['training.lr=1e-3, 5e-4', 'training.batch_size=32,64'])
    assert [(point.name, point.overrides) for point in points] == [
        ('lr=0.001_batch_size=32', {'training.lr': '1e-3', 'training.batch_size': '32'}),
        ('lr=0.001_batch_size=64', {'training.lr': '1e-3', 'training.batch_size': '64'}),
        ('lr=0.0005_batch_size=32', {'training.lr': '5e-4', 'training.batch_size': '32'}),
        ('lr=0.0005_batch_size=64', {'training.lr': '5e-4', 'training.batch_size': '64'}),
    ]


def test_names_sort_as_numbers():
    values = [1e-8, 1e-5, 5e-4, 1e-3, 0.01, 0.25, 0.5]
    found = names('training.lr=' + ','.join(f'{value:g}' for value in values))
    assert found == sorted(found)
    assert [float(name.partition('=')[2]) for name in found] == values


def test_one_spelling_for_each_number():
    assert names('training.lr=1e-3') == names('training.lr=0.001') == names('training.lr=.001')
    assert names('a=1e-12,3,1.5e20,1234567.25') == ['a=1e-12', 'a=3', 'a=1.5e+20', 'a=1234567.25']
    assert names('a=0.1234567890123,0.0') == ['a=0.1234567890123', 'a=0']


def test_a_grown_grid_keeps_its_names():
    assert names('training.lr=1e-3,1e-4') == names('training.lr=1e-3,1e-4,1e-5')[:2]


def test_labels_tell_keys_apart():
    assert names('training.curriculum.enabled=on', 'model.enabled=off') == [
        'curriculum.enabled=true_model.enabled=false'
    ]
    (name,) = names('stages.dense.training.lr=1', 'stages.structural.training.lr=2', 'training.lr=3')
    assert name == 'dense.lr=1_structural.lr=2_lr=3'


def test_values_with_commas():
    assert [point.overrides['a'] for point in grid(['a=[1,2],(3,4),"x,y",z'])] == ['[1,2]', '(3,4)', '"x,y"', 'z']


def test_names_are_safe_short_and_unique():
    found = names('a=x/y,x-y,../..,"x y",x:y,null', 'b=' + ','.join(letter * 200 for letter in 'pq'))
    assert len(set(found)) == len(found) == 12
    assert all(re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_=.+-]*', name) and len(name) <= MAX_NAME for name in found)


@pytest.mark.parametrize(
    ('texts', 'message'),
    [
        (['training.lr'], 'write KEY=VALUE'),
        (['training.lr=1,,2'], 'a value is empty'),
        (['training.lr='], 'a value is empty'),
        (['training.lr=1e-3,0.001'], '0.001 stands twice'),
        (['a=1', 'a=2'], 'a is given twice; list its values: a=A,B'),
        ([f'{key}={",".join(map(str, range(40)))}' for key in 'ab'], '1600 combinations; at most 1000'),
    ],
)
def test_errors(texts, message):
    with pytest.raises(UserError, match=message):
        grid(texts)


def test_no_texts_are_one_point():
    assert [(point.name, point.overrides) for point in grid([])] == [('', {})]
