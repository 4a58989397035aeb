"""Shapes from a config alone equal those in files of transformers; wrong configs are one line."""

import json

import pytest
from hf_models import FILE

from vadslim.analysis.config_shapes import tensors_of

CASES = json.loads(FILE.read_text())


def count(tensors):
    """Parameters; what is tied counts once."""
    return sum({entry.storage: entry.count for entry in tensors.values()}.values())


@pytest.mark.parametrize('name', CASES)
def test_as_transformers_saves_it(name):
    case = CASES[name]
    tensors = tensors_of(case['config'])
    own = {name: list(entry.shape) for name, entry in tensors.items() if entry.storage[1] == name}
    assert own == case['shapes']
    assert count(tensors) == case['parameters']
