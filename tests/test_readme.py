"""What the README shows works, and what it names is there."""

import re
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_the_lines_that_slim_any_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten(), nn.Linear(360, 5)).eval()
    example = torch.randn(1, 3, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (code,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    assert sum(not line.startswith(('from', 'import')) for line in code.strip().splitlines() if line) <= 6

    names = {'model': model, 'example': example}
    exec(code, names)
    slim = names['slim']
    assert slim[0].out_channels == slim[1].num_features == 7 and slim[4].in_features == 252
    assert slim(example).shape == model(example).shape == (1, 5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (tmp_path / 'structure.json').is_file()


def test_the_files_it_names_are_there():
    links = re.findall(r'\]\(([^)#:]+)\)', README)
    commands = re.findall(r'^    python (\S+) (\S+\.py)', README, re.MULTILINE)
    assert links and commands
    for name in [*links, *(name for command in commands for name in command)]:
        assert (ROOT / name).exists(), name
