"""setup.py and tools/env.sh, as far as they can be tried without installing anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vadslim

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def copy(tmp_path):
    """A copy of what packaging reads."""
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'tools/env.sh', 'projects/vadslim/__init__.py'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / 'requirements', tmp_path / 'requirements')
    return tmp_path


def setup_py(folder, *arguments):
    command = [sys.executable, '-W', 'ignore', 'setup.py', '--quiet', *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_version(copy):
    assert setup_py(copy, '--version').stdout.strip().splitlines()[-1] == vadslim.__version__


def test_requirements_reach_the_package(copy):
    result = setup_py(copy, 'egg_info', '--egg-base', str(copy))
    assert result.returncode == 0, result.stderr
    sections = {'': []}
    for line in (copy / 'vadslim.egg-info' / 'requires.txt').read_text().splitlines():
        if line.startswith('['):
            sections[line.strip('[]')] = section = []
        elif line:
            (section if len(sections) > 1 else sections['']).append(line)
    assert set(sections) == {'', 'vad', 'tests', 'optional', 'all'}
    assert 'torch==2.13.0' in sections[''] and 'mmcv==2.1.0' in sections['vad']
    assert set(sections['all']) == {*sections['vad'], *sections['tests'], *sections['optional']}
    named = ' '.join(sum(sections.values(), []))
    assert '#' not in named and 'torchvision' not in named


@pytest.mark.parametrize('name', ['build', 'runtime', 'vad', 'optional', 'tests'])
def test_a_missing_requirements_file_is_an_error(copy, name):
    (copy / 'requirements' / f'{name}.txt').unlink()
    result = setup_py(copy, '--version')
    assert result.returncode != 0
    assert f'requirements/{name}.txt' in result.stderr


def test_environment_needs_a_suitable_python(copy):
    result = subprocess.run(
        ['bash', 'tools/env.sh'], cwd=copy, env={**os.environ, 'PYTHON': 'false'}, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        'env: needs Python 3.10 or 3.11; tried false (PYTHON=/path/to/python3.11 names one)'
    ]
    assert not (copy / '.venv').exists()
