"""summarize_model_structures.py: what is printed, what is written, how a user's mistakes end; and that it is light."""

import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest
from structure_dicts import DENSE, SHORT, comparison, write

from vadslim.analysis import structure_plots
from vadslim.analysis.structure_summary import collect, to_text
from vadslim.analysis.summary_command import main

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'analysis_tools' / 'summarize_model_structures.py'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The defaults are where the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def baselines(here):
    files = {'model_structure': SHORT, 'model_comparison': comparison(DENSE, SHORT)}
    return write(here / 'baselines' / 'ShortGPT' / 'analysis', **files).parents[1]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def test_without_options(here, baselines, capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    text = (here / 'models_structure_summary.txt').read_text()
    assert text == to_text(collect([baselines], list))
    assert said.out == f'✓ ShortGPT{" " * 22} [对比✓, 结构✓]\n⊘ 跳过不存在的目录: results\n\n{text}'
    names = [f'models_structure_summary.{suffix}' for suffix in ('json', 'txt', 'html')]
    assert said.err == f'written to .: {", ".join(names)}\n'
    data = json.loads((here / names[0]).read_text())
    assert data['total_models'] == 1 and data['models'][0]['name'] == 'baselines/ShortGPT'
    assert '"name": "baselines/ShortGPT"' in (here / names[0]).read_text()  # with an indent of two
    assert 'baselines/<wbr>ShortGPT' in (here / names[2]).read_text()


def test_over_its_own_output(here, baselines):
    """In the folder that it reads, twice."""
    assert main(['--dirs', 'baselines', '--output', 'baselines/a/b/all.of']) == 0
    first = files(here)
    assert main(['--dirs', 'baselines', '--output', 'baselines/a/b/all.of']) == 0
    assert files(here) == first and first[0] == 'baselines/ShortGPT/analysis/model_comparison.json'
    assert first[2:] == [f'baselines/a/b/all.of.{suffix}' for suffix in ('html', 'json', 'txt')]


def test_plots(here, baselines, capsys, monkeypatch):
    monkeypatch.setattr(structure_plots, 'to_png', lambda figure: b'\x89PNG')  # drawing is another test's
    assert main(['--plots', '--output', 'out/all']) == 0
    assert (here / 'out' / 'all_comparison.png').read_bytes()[:4] == b'\x89PNG'
    assert (here / 'out' / 'all_retention.png').is_file()
    write(here / 'results' / 'base', model_structure=DENSE)
    assert main(['--plots', '--dirs', 'results', '--output', 'new/all']) == 0
    assert 'all_retention.png: not drawn, there is no comparison with an original' in capsys.readouterr().err
    assert 'new/all_retention.png' not in files(here)


def test_nothing_is_found(here, capsys):
    (here / 'results' / 'a').mkdir(parents=True)
    assert main(['--output', 'out/all']) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        '⊘ 跳过不存在的目录: baselines',
        f'⊘ a{" " * 29} [无分析结果]',
        '✗ 未找到任何分析结果',
    ]
    assert said.err == (
        'error: baselines, results: no sub-folder has results of model_analysis.py or batch_model_analysis.py\n'
    )
    assert files(here) == [] and not (here / 'out').exists()


@pytest.mark.parametrize(
    ('output', 'why'),
    [
        ('out/', '--output out/: names a folder'),
        ('..', '--output ..: names a folder'),
        ('', '--output : names a folder'),
        ('file/all', 'file: is a file; a folder is needed here'),
        ('file/deep/all', 'file/deep: cannot be written: Not a directory'),
        ('taken', 'taken.txt: cannot be written: it is a folder'),
        ('n' * 260, '.json: cannot be written: File name too long'),
    ],
)
def test_what_cannot_be_written(here, baselines, capsys, output, why):
    (here / 'file').write_text('')
    (here / 'taken.txt').mkdir()
    before = files(here)
    assert main(['--output', output]) == 2
    error = capsys.readouterr().err
    assert why in error and error.count('\n') == 1 and files(here) == before


def test_without_matplotlib(here, baselines, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith('matplotlib'):
            raise ModuleNotFoundError(f'No module named {name!r}', name='matplotlib')
        return real(name, *arguments)

    monkeypatch.setattr(builtins, '__import__', without)
    before = files(here)
    assert main(['--plots']) == 2
    assert 'matplotlib is not installed' in capsys.readouterr().err and files(here) == before


def test_the_command_is_light(here, baselines):
    """It runs by its file, prints in any encoding and imports none of the large packages."""
    script = f"""
import runpy, sys
sys.argv = ['summarize']
try:
    runpy.run_path({str(TOOL)!r}, run_name='__main__')
except SystemExit as end:
    assert end.code == 0, end.code
print(*sys.modules, file=sys.stderr)
"""
    environment = {'PYTHONPATH': str(ROOT / 'projects'), 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run([sys.executable, '-c', script], cwd=here, env=environment, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert done.returncode == 0 and 'vadslim.analysis.structure_page' in loaded, done.stderr[-300:]
    assert {'torch', 'mmengine', 'matplotlib', 'numpy', 'pandas', 'rich', 'transformers'} & loaded == set()
    assert '? ShortGPT' in done.stdout and len(files(here)) == 5
