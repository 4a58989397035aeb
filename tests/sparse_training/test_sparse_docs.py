"""What docs/sparse_training.md shows works: its networks, its commands, the places that it names."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch

from vadslim.registry import MODELS
from vadslim.sparse_training.settings import Settings, build_parser

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'docs' / 'sparse_training.md').read_text(encoding='utf-8')
COMMANDS = re.findall(r'python (tools/main_imp_fillback\.py [^`\n]+)', TEXT.replace('\\\n', ' '))


def test_networks_of_ones_own(tmp_path):
    (code,) = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
    (tmp_path / 'my_models.py').write_text(code)
    spec = importlib.util.spec_from_file_location('my_models', tmp_path / 'my_models.py')
    module = importlib.util.module_from_spec(spec)
    names = ('ResNet32', 'MyVGG', 'ResNet50')
    try:
        spec.loader.exec_module(module)
        sizes = {}
        for name in names:
            model = MODELS.build({'type': name, 'num_classes': 7}).eval()
            assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
            sizes[name] = sum(parameter.numel() for parameter in model.parameters())
        assert sizes == {'ResNet32': 466_711, 'MyVGG': 2_472_967, 'ResNet50': 23_514_695}
    finally:
        for name in names:
            MODELS.module_dict.pop(name, None)


@pytest.mark.parametrize('command', COMMANDS)
def test_commands(command):
    script, *words = shlex.split(command)
    assert (ROOT / script).is_file()
    given = build_parser().parse_args(words)
    assert given.config is None or (ROOT / given.config).is_file()
    Settings.of({name: value for name, value in vars(given).items() if name in Settings.__dataclass_fields__})


def test_there_are_commands():
    assert len(COMMANDS) >= 5


def test_places():
    for path in re.findall(r'(?:tools|configs)/[\w/]+\.py', TEXT):
        assert (ROOT / path).is_file(), path
