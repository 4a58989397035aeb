"""What differs between two configs."""

import math

from vadslim.analysis.config_diff import config_differences


def test_values_lists_and_keys_that_one_lacks():
    assert config_differences({'a': {'b': 1, 'c': (1, 2)}}, {'a': {'b': True, 'c': [1, 2]}}) == {
        'a.b': {'a': 1, 'b': True}
    }
    assert config_differences({'a': {}, 'x': math.inf}, {'a': None, 'x': 1}) == {
        'a': {'a': {}, 'b': None},
        'x': {'a': 'inf', 'b': 1},
    }
    assert config_differences({'a': [{'k': 1}]}, {'a': []}) == {'a.0.k': {'a': 1}, 'a': {'b': []}}
