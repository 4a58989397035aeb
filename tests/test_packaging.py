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


STUB = """#!/usr/bin/env bash
# a Python that makes empty environments, and whose pip does what the file pip_says says
case "$1 $2" in
'-m venv') mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
'-m pip') echo "$*" >>pip_calls; . ./pip_says ;;
'-c import pip' | '-c import mmcv.ops') ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def make_env(copy):
    """Runs tools/env.sh with a stand-in for Python and pip, and a wheel at hand; (exit code, stdout, stderr)."""
    stub = copy / 'python-stub'
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    wheels = copy / 'wheels'
    wheels.mkdir()
    tag = f'cp3{sys.version_info.minor}'
    (wheels / f'mmcv-2.1.0-{tag}-{tag}-linux_{os.uname().machine}.whl').touch()

    def run(pip_says=':'):
        (copy / 'pip_says').write_text(pip_says)
        (copy / 'pip_calls').write_text('')
        env = {**os.environ, 'PYTHON': str(stub), 'WHEELS': str(wheels), 'HOME': str(copy)}
        result = subprocess.run(['bash', 'tools/env.sh'], cwd=copy, env=env, capture_output=True, text=True)
        return result.returncode, result.stdout, result.stderr

    return run


def test_environment_is_made_once(copy, make_env):
    code, out, err = make_env('echo "Collecting torch==2.13.0"')
    assert (code, err) == (0, '')
    assert '    torch==2.13.0' in out.splitlines() and 'ready' in out
    assert '.[vad,tests]' in (copy / 'pip_calls').read_text()
    assert make_env('exit 1') == (0, '', '')
    assert (copy / 'pip_calls').read_text() == ''


def test_environment_after_a_failed_installation(copy, make_env):
    """One that was cut short while unpacking starts afresh; one that could not be updated stays as it was."""
    code, out, err = make_env('echo "Installing collected packages: torch"; echo "ERROR: no space"; exit 1')
    assert (code, len(err.splitlines())) == (2, 1) and 'pip failed' in err and 'ERROR: no space' in out
    (copy / '.venv' / 'half').touch()
    code, out, _ = make_env()
    assert code == 0 and 'starting afresh' in out and not (copy / '.venv' / 'half').exists()

    with (copy / 'requirements' / 'tests.txt').open('a') as file:
        file.write('# changed\n')
    (copy / '.venv' / 'installed').touch()
    assert make_env('echo "ERROR: no network"; exit 1')[0] == 2
    code, out, _ = make_env()
    assert code == 0 and 'afresh' not in out and (copy / '.venv' / 'installed').exists()


def test_somebodys_environment_is_left_alone(copy, make_env):
    (copy / '.venv' / 'bin').mkdir(parents=True)
    code, _, err = make_env()
    assert (code, err) == (2, 'env: .venv was not made by this command; move it away\n')
    assert [path.name for path in (copy / '.venv').iterdir()] == ['bin']
