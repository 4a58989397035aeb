"""generate_results_table.py: files, lines, exit codes; and what it does without."""

import subprocess
import sys
from pathlib import Path

import pytest
from evaluations import evaluation, write, write_guide

from vadslim.analysis.results_command import main

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools' / 'generate_results_table.py'
STARTS = {'csv': b'\xef\xbb\xbf', 'markdown': b'| ', 'html': b'<!doctype', 'excel': b'PK', 'latex': b'% '}


@pytest.fixture
def models(tmp_path):
    return write_guide(tmp_path / 'models')


@pytest.fixture
def table(models, capsys):
    """Runs the command on the guide's models; (exit code, stdout, lines of stderr)."""

    def run(*arguments, folder=models):
        code = main(['--result_dir', str(folder), *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return run


@pytest.mark.parametrize(
    ('name', 'asked', 'kind'),
    [
        ('t.csv', 'auto', 'csv'),
        ('t.md', 'auto', 'markdown'),
        ('t.HTML', 'auto', 'html'),
        ('t.xlsx', 'auto', 'excel'),
        ('t.tex', 'auto', 'latex'),
        ('table', 'auto', 'csv'),
        ('t.csv', 'latex', 'latex'),
        ('t.txt', 'markdown', 'markdown'),
    ],
)
def test_formats(tmp_path, table, name, asked, kind):
    output = tmp_path / 'not' / 'there' / name
    for _ in range(2):  # over what is there, too
        code, _, lines = table('--output', output, '--format', asked)
        assert code == 0 and output.read_bytes().startswith(STARTS[kind])
        assert lines[-1] == f'written to {output}: 3 models, 24 columns ({kind})'
        assert [line.startswith('note: ') for line in lines[:-1]] == [True] * (
            name in ('table', 't.txt') or asked == 'latex'
        )
    assert [path.name for path in output.parent.iterdir()] == [name]


def test_decimal_places(tmp_path, table):
    cells = {}
    for places in ([], ['--decimal_places', '0'], ['--decimal_places', '5']):
        table('--output', tmp_path / 't.md', *places)
        cells[tuple(places)] = (tmp_path / 't.md').read_text().splitlines()[2].split(' | ')[1:4]
    assert list(cells.values()) == [
        ['11.966', '6.424', '39.87'],
        ['12', '6', '40'],
        ['11.96604', '6.42422', '39.87000'],
    ]


def test_summary(tmp_path, models, table):
    write(models / 'tiny', evaluation(5, float('inf'), 0.5002))
    _, out, _ = table('--output', tmp_path / 't.csv')
    assert '4 models, the first 3' in out and '0.3644' in out and '[9, 10, 11, 12, 25, 26]' in out
    lines = {
        line.split('│')[1].strip(): [cell.strip() for cell in line.split('│')[2:6]]
        for line in out.splitlines()
        if '│' in line
    }
    assert lines['PPL (WikiText-2)'] == ['3 (1 infinite)', '37.32', '315.21', '130.80']
    assert lines['PPL (PTB)'] == ['4', '63.66', '63.66', '63.66']
    assert lines['ZS-平均 (%)'] == ['4', '36.96', '62.05', '50.11']
    assert lines['剪枝标准差'] == ['3', '0.1524', '0.3644', '0.2849']
    assert table('--output', tmp_path / 't.csv', '--no_summary')[1] == ''


def test_a_summary_of_nothing_known(tmp_path, table):
    write(tmp_path / 'few' / 'x', {'metrics': {}})
    code, out, _ = table('--output', tmp_path / 't.csv', folder=tmp_path / 'few')
    assert code == 0 and out.count('N/A') == 23 + 12


def test_a_file_that_cannot_be_read(tmp_path, models, table):
    write(models / 'bad', '{"metrics"')
    code, _, lines = table('--output', tmp_path / 't.csv', '--no_summary')
    assert code == 2 and len((tmp_path / 't.csv').read_text('utf-8-sig').splitlines()) == 4
    assert [line.partition(': ')[0] for line in lines] == ['error', f'written to {tmp_path / "t.csv"}']
    assert 'bad/evaluation/evaluation_results.json: is no valid JSON' in lines[0]


def test_nothing_to_write(tmp_path, table):
    (tmp_path / 'empty').mkdir()
    bad = write(tmp_path / 'bad' / 'x', '')
    cases = {
        tmp_path / 'empty': 'no folder in it has evaluation/evaluation_results.json; nothing is written',
        tmp_path / 'none': 'cannot be read: No such file or directory',
        bad.parent: 'no model could be read; nothing is written',
    }
    for folder, end in cases.items():
        code, out, lines = table('--output', tmp_path / 'new' / 't.csv', folder=folder)
        assert (code, out, lines[-1]) == (2, '', f'error: --result_dir {folder}: {end}')
    assert not (tmp_path / 'new').exists()


def test_mistakes(tmp_path, models, table):
    source = models / 'HGSP_2000' / 'evaluation' / 'evaluation_results.json'
    before = source.read_bytes()
    (tmp_path / 'file').touch()
    cases = {
        ('--output', tmp_path): f'error: --output {tmp_path}: is a folder',
        (
            '--output',
            tmp_path / 'file' / 't.csv',
        ): f'error: --output {tmp_path}/file/t.csv: {tmp_path}/file is no folder',
        ('--output', '/dev/null'): 'error: --output /dev/null: is no ordinary file',
        ('--output', tmp_path / ('a' * 300)): f'error: --output {tmp_path}/{"a" * 300}: File name too long',
        ('--output', source): f'error: --output {source}: is one of the files that the table is made from',
        (): 'error: the following arguments are required: --output (see --help)',
    }
    for arguments, line in cases.items():
        code, out, lines = table(*arguments)
        assert (code, out, lines[-1]) == (2, '', line)
    for arguments in (['--decimal_places', '-1'], ['--decimal_places', '16'], ['--format', 'pdf'], ['--no-such']):
        code, out, lines = table('--output', tmp_path / 't.csv', *arguments)
        assert (code, out, len(lines)) == (2, '', 1) and lines[0].startswith('error: ')
    assert source.read_bytes() == before and not (tmp_path / 't.csv').exists()


def test_a_link_is_followed(tmp_path, table):
    (tmp_path / 't.csv').write_text('old')
    (tmp_path / 'link.csv').symlink_to('t.csv')
    assert table('--output', tmp_path / 'link.csv')[0] == 0
    assert (tmp_path / 'link.csv').is_symlink() and (tmp_path / 't.csv').read_bytes().startswith(STARTS['csv'])


def test_without_openpyxl(tmp_path, table, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openpyxl', None)
    code, _, lines = table('--output', tmp_path / 'new' / 't.xlsx')
    assert code == 2 and lines == ['error: Excel files need openpyxl, which is not installed (pip install openpyxl)']
    assert not (tmp_path / 'new').exists()


BLOCKED = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'numpy', 'mmengine', 'pandas', 'matplotlib', 'openpyxl'}:
            raise ModuleNotFoundError(name + ' is blocked')
sys.meta_path.insert(0, Blocker())
sys.argv[:1] = []
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_it_is_light(tmp_path, models):
    """No part of it needs torch or numpy; what is printed is no reason to fail."""
    command = [sys.executable, '-c', BLOCKED, TOOL, '--result_dir', models, '--output', tmp_path / 't.html']
    environment = {'PYTHONPATH': ':'.join(sys.path), 'PYTHONIOENCODING': 'ascii', 'PATH': '/bin'}
    result = subprocess.run(command, capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr.decode()
    assert b'HGSP_2000' in result.stdout and (tmp_path / 't.html').stat().st_size > 5000
