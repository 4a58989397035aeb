"""docs/migration.md, and pages that go with it, name what is there, and flags that commands know."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import vadslim.sparse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'docs' / name for name in ('migration.md', 'results_table.md', 'staged_training.md')]
TEXT = '\n'.join(page.read_text(encoding='utf-8') for page in PAGES)
COMMANDS = [shlex.split(line) for line in re.findall(r'^    python (.+)$', TEXT.replace('\\\n', ' '), re.MULTILINE)]
TABLES = re.split(r'^## ', PAGES[0].read_text(encoding='utf-8'), flags=re.MULTILINE)


def test_the_files_it_names_are_there():
    """Whatever begins with a folder of ours; the earlier tools' paths do so only where they are the same."""
    named = set(re.findall(r'\b((?:tools|configs|projects|docs)/[\w./]*)', TEXT))
    assert len(named) > 12
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    for page in PAGES:
        links = re.findall(r'\]\(([^)#:]+)\)', page.read_text(encoding='utf-8'))
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_tool_that_takes_the_place_of_another_is_named():
    said = set(re.findall(r'tools/analysis_tools/(\w+\.py)', TABLES[1]))
    others = {'compare.py', 'sensitivity.py', 'slim_masked.py', 'visualization.py'}  # nothing of the kind was before
    assert said == {path.name for path in (ROOT / 'tools' / 'analysis_tools').glob('*.py')} - others


def test_functions():
    (column,) = (table for table in TABLES if table.startswith('Functions'))
    names = re.findall(
        r'`(\w+)`', ' '.join(line.split('|')[2] for line in column.splitlines() if line.startswith('| '))
    )
    assert len(names) > 8 and set(names) <= set(vadslim.sparse.__all__)


def flags_of(tool, monkeypatch, capsys):
    """What ``--help`` of a command names."""
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    assert not end.value.code
    return set(re.findall(r'--[\w-]+', capsys.readouterr().out))


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: Path(command[0]).stem)
def test_commands_know_the_flags(command, monkeypatch, capsys):
    assert {word for word in command if word.startswith('--')} <= flags_of(command[0], monkeypatch, capsys)


def test_flags_of_the_doors_are_there(monkeypatch, capsys):
    table = re.split(r'^`tools/train_structural.py`', TABLES[2], flags=re.MULTILINE)[1].split('\n\n')[1]
    doors = [flags_of(f'tools/train_{stage}.py', monkeypatch, capsys) for stage in ('structural', 'dense')]
    words = set(re.findall(r'^\| `(--[\w-]+)`', table, re.MULTILINE))
    assert len(words) == 7 and words <= set.union(*doors)


@pytest.mark.parametrize(
    'tool', ['tools/analysis_tools/analysis_struct.py', 'tools/main_imp_fillback.py', 'tools/train_stages.py']
)
def test_flags_that_differ_are_there(tool, monkeypatch, capsys):
    """Those in the first column of the table under the tool's name."""
    flags = TABLES[2]
    table = re.split(rf'^`{tool}`', flags, flags=re.MULTILINE)[1].split('\n\n')[1]
    named = set(re.findall(r'^\| (.*?) \|', table, re.MULTILINE)) - {'flag', '---'}
    words = {word for cell in named for word in re.findall(r'--[\w-]+', cell)}
    assert len(words) > 4 and {word for word in words if 'mamba' not in word} <= flags_of(tool, monkeypatch, capsys)
