"""YAML as configs need it: numbers, keys with their lines, and errors in one line."""

import pytest

from vadslim.cli import UserError
from vadslim.staged.yaml_files import MAX_BYTES, read_scalar, read_yaml


@pytest.fixture
def read(tmp_path):
    def reader(text):
        file = tmp_path / 'c.yaml'
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(file)

    return reader


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1e-3', 1e-3),
        ('-1E+2', -100.0),
        ('.5', 0.5),
        ('1.', 1.0),
        ('5e4', 50000.0),
        ('1_000.5', 1000.5),
        ('12', 12),
        ('-7', -7),
        ('010', 10),
        ('10_000', 10000),
        ('0x10', 16),
        ('"1e-3"', '1e-3'),
        ('1e-3x', '1e-3x'),
        ('e3', 'e3'),
        ('.', '.'),
        ('12:30:00', '12:30:00'),
        ('2026-01-31', '2026-01-31'),
        ('off', False),
        ('Yes', True),
        ('only', 'only'),
        ('~', None),
        ('', None),
        ('Null', None),
        ('[1e-3, 2]', [1e-3, 2]),
    ],
)
def test_scalars(read, text, value):
    data, _ = read(f'a: {text}\n')
    assert data == {'a': value} and type(data['a']) is type(value)
    assert read_scalar(text) == value


def test_keys_know_their_lines(read):
    data, lines = read('a:\n  b: 1\n  c: {d: 2}\nstages:\n- name: x\n- {name: y,\n   lr: 1}\n')
    assert data == {'a': {'b': 1, 'c': {'d': 2}}, 'stages': [{'name': 'x'}, {'name': 'y', 'lr': 1}]}
    wanted = {'a': 1, 'a.b': 2, 'a.c.d': 3, 'stages.0': 5, 'stages.0.name': 5, 'stages.1.name': 6, 'stages.1.lr': 7}
    assert {key: lines[key] for key in wanted} == wanted


def test_empty_files_are_empty(read):
    assert read('') == read('# nothing\n') == read('---\n') == ({}, {})
    assert read('\ufeffa: 1')[0] == {'a': 1}


def test_anchors_and_merge_keys(read):
    data, lines = read('a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n')
    assert data == {'a': {'x': 1, 'y': 2}, 'b': {'x': 1, 'y': 3}, 'c': {'x': 1, 'y': 2}}
    assert lines['b.y'] == 4
    assert data['a'] is not data['c']  # a merge changes one of them only


LAUGHS = 'a0: &a0 [x, x]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 7))
MERGED = 'a0: &a0 {x: 1}\n' + ''.join(f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 9)}]}}\n' for i in range(1, 7))


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        ('a: 1\nb: 2\na: 3\n', 3, 'the key a stands in line 1 already'),
        ('{a: 1, a: 1}', 1, 'stands in line 1 already'),
        ('x:\n  - a: 1\n    a: 2\n', 3, 'stands in line 2 already'),
        ('a: &a {x: 1}\nb: {<<: *a, <<: *a}', 2, 'already'),
        ('a: [1\nb: 2\n', 2, 'flow sequence'),
        ('\ta: 1\n', 1, 'cannot start any token'),
        ('- a\n- b\n', 1, 'a config is a mapping'),
        ('just words', 1, 'a config is a mapping'),
        ('a: 1\n---\nb: 2\n', 2, 'single document'),
        ('a: *b\n', 1, "alias 'b'"),
        ('a: &a [1, *a]\n', 1, 'contains itself'),
        (LAUGHS, 6, 'more than 100000 values'),
        (MERGED, 6, 'more than 100000 values'),
        ('a: !!python/object/apply:os.system [ls]\n', 1, 'tag !!python/object/apply:os.system is not allowed'),
        ('a: !!python/name:os.system x\n', 1, 'python/name'),
        ('a: !!set {x}\n', 1, 'not allowed'),
        ('1: x\n', 1, 'the key 1 is no text'),
        ('? [a]\n: 1\n', 1, 'the key is no text'),
        ('a:\n ' + '[{' * 5000, 2, 'brackets are nested too deeply'),
        (f'a: {"9" * 5000}', 1, 'a whole number of 5000 digits is too long'),
    ],
)
def test_errors_name_file_and_line(read, tmp_path, text, line, message):
    with pytest.raises(UserError) as error:
        read(text)
    said = str(error.value)
    assert said.startswith(f'{tmp_path / "c.yaml"}:{line}: ') and message in said and '\n' not in said


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (b'a: \xff\xfe', 'not a text in UTF-8'),
        ('a: \x00', 'character 3 cannot stand in YAML'),
        ('- ' * 5000, 'nested too deeply'),
        ('#' * (MAX_BYTES + 1), 'too many for a config'),
    ],
)
def test_errors_without_a_line(read, text, message):
    with pytest.raises(UserError, match=message) as error:
        read(text)
    assert '\n' not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match='No such file'):
        read_yaml(tmp_path / 'none.yaml')
    with pytest.raises(UserError, match='directory'):
        read_yaml(tmp_path)


def test_a_scalar_that_is_none():
    with pytest.raises(ValueError, match='flow sequence'):
        read_scalar('[1')
    assert read_scalar('{a: 1}') == {'a': 1}
