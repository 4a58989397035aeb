"""Declared examples are found by class, nearest base first."""

import torch
from torch import nn

from vadslim.analysis.example import Example, declares_example, find_example


class Base(nn.Linear):
    pass


class Derived(Base):
    pass


@declares_example(Base)
def base_example(model, cfg, small):
    size = 1 if small else cfg['size']
    return Example(lambda m: m(torch.zeros(size, model.in_features)), f'{size} rows')


def test_found_over_the_bases():
    model = Derived(3, 2)
    example = find_example(model, {'size': 5})
    assert example.label == '5 rows' and example.run(model).shape == (5, 2)
    assert find_example(model, small=True).label == '1 rows'


def test_the_nearest_class_wins():
    @declares_example(Derived)
    def derived_example(model, cfg, small):
        return Example(lambda m: None, 'derived')

    assert find_example(Derived(3, 2)).label == 'derived'
    assert find_example(Base(3, 2), {'size': 2}).label == '2 rows'


def test_none_declared():
    assert find_example(nn.Linear(3, 2)) is None
