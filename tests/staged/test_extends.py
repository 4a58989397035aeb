"""extends: paths, depth of the merge, stages by name, cycles; and Python files with _base_ beside it."""

import textwrap

import pytest

from vadslim.cli import UserError
from vadslim.staged.extends import deep_merge, read_config


@pytest.fixture
def write(tmp_path):
    def writer(**files):
        for name, text in files.items():
            path = tmp_path / name.replace('__', '/').replace('_yaml', '.yaml').replace('_py', '.py')
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    return writer


def test_three_files_deep(write):
    root = write(
        base__a_yaml='model: {x: 1, y: {p: 1, q: 1}}\nlist: [1, 2]\nonly_a: 1\n',
        base__b_yaml='extends: a.yaml\nmodel:\n  y: {q: 2}\nlist: [3]\n',
        c_yaml='extends: base/b.yaml\nmodel: {y: {r: 3}}\nonly_a:\n',
    )
    source = read_config(root / 'c.yaml')
    assert source.data == {'model': {'x': 1, 'y': {'p': 1, 'q': 2, 'r': 3}}, 'list': [3], 'only_a': None}
    assert source.where('model.y.q') == f'{root}/base/b.yaml:3'
    assert source.where('model.y.r') == f'{root}/c.yaml:2'
    assert source.where('model.x.deeper') == f'{root}/base/a.yaml:1'
    assert source.where('nothing') == f'{root}/c.yaml'


def test_stages_are_merged_by_name(write):
    root = write(
        base_yaml="""
            stages:
              - {name: one, epochs: 1, training: {curriculum: {enabled: true, end_stage: 3}}}
              - {name: two, init_from: x.pth}
        """,
        c_yaml="""
            extends: base.yaml
            stages:
              - {name: three}
              - {name: one, training: {epochs: 7, curriculum: {end_stage: 4}}}
        """,
    )
    source = read_config(root / 'c.yaml')
    assert list(source.data['stages']) == ['one', 'two', 'three']
    assert source.data['stages']['one'] == {'training': {'curriculum': {'enabled': True, 'end_stage': 4}, 'epochs': 7}}
    assert source.where('stages.one.training.curriculum.end_stage') == f'{root}/c.yaml:5'
    assert source.where('stages.one.training.curriculum.enabled') == f'{root}/base.yaml:3'
    assert source.where('stages.three') == f'{root}/c.yaml:4'


def test_an_empty_section_changes_nothing():
    assert deep_merge({'a': {'b': 1}, 'c': 1}, {'a': None, 'c': None}) == {'a': {'b': 1}, 'c': None}


def test_merging_changes_neither():
    base, over = {'a': {'b': {'c': 1}}}, {'a': {'b': {'d': 2}}}
    assert deep_merge(base, over) == {'a': {'b': {'c': 1, 'd': 2}}}
    assert (base, over) == ({'a': {'b': {'c': 1}}}, {'a': {'b': {'d': 2}}})


@pytest.mark.parametrize('names', ['a', 'ab', 'abc'])
def test_cycles_name_the_chain(write, names):
    root = write(**{f'{name}_yaml': f'extends: ./{names[(i + 1) % len(names)]}.yaml\n' for i, name in enumerate(names)})
    chain = ' -> '.join(f'{root}/{name}.yaml' for name in [*names, names[0]])
    with pytest.raises(UserError) as error:
        read_config(root / 'a.yaml')
    assert str(error.value).endswith(f'extends itself: {chain}')


def test_a_cycle_behind_the_first_file(write):
    root = write(a_yaml='extends: b.yaml', b_yaml='extends: c.yaml', c_yaml='extends: b.yaml')
    with pytest.raises(UserError, match=f'itself: {root}/b.yaml -> {root}/c.yaml -> {root}/b.yaml$'):
        read_config(root / 'a.yaml')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('extends: defualt.yaml', r'c.yaml:1: extends: .*defualt.yaml: no such config; did you mean .*default.yaml\?'),
        ('extends: x.py', r'c.yaml:1: extends x.py: a YAML file extends YAML files only \(.yaml, .yml\)'),
        ('extends: x.txt', 'c.yaml:1: x.txt: not a config; its name ends in .yaml, .yml, .py'),
        ('extends: [default.yaml]', r"c.yaml:1: extends is \['default.yaml'\]; the path of one file"),
        ('stages: {name: x}', r'c.yaml:1: stages is .*; a list of entries'),
        ('stages: [a]', r'c.yaml:1: stage 1: name is None; a name for its folder'),
        ('stages: [{name: a/b}]', "stage 1: name is 'a/b'; a name for its folder is needed: letters, digits, _ and -"),
        ('stages: [{name: ..}]', "name is '..'"),
        ('stages:\n- {name: a}\n- {name: A}', 'c.yaml:3: stage 2: a stage before it is called a already'),
        (
            'stages:\n- name: a\n  epochs: 3\n  training: {epochs: 3}',
            'c.yaml:3: stages.a: epochs stands in training too',
        ),
    ],
)
def test_errors(write, text, message):
    root = write(c_yaml=text, default_yaml='', x_py='')
    with pytest.raises(UserError, match=message):
        read_config(root / 'c.yaml')


def test_a_folder_is_no_config_and_not_suggested(tmp_path):
    (tmp_path / 'c.yaml').mkdir()
    with pytest.raises(UserError, match='c.yaml: no such config$'):
        read_config(tmp_path / 'c.yaml')


def test_an_error_of_the_base_names_the_base(write):
    root = write(c_yaml='extends: default.yaml', default_yaml='a: 1\na: 2')
    with pytest.raises(UserError, match=f'^{root}/default.yaml:2: '):
        read_config(root / 'c.yaml')


# --- Python -------------------------------------------------------------------------------------------------


def test_python_has_base_and_extends(write):
    root = write(
        below_py="optimizer = dict(type='SGD', lr=0.1)\nmodel = dict(type='Net', depth=1, width=1)\nsteps = [1, 2]\n",
        mixin_py='model = dict(width=2)\nepochs = 5\n',
        sub__c_py="""
            _base_ = '../mixin.py'
            extends = '../below.py'
            optimizer = dict(_delete_=True, type='AdamW')
            steps = [3]
            stages = [dict(name='a', config='../below.py', epochs=1), dict(name='b')]
        """,
        sub__d_py="extends = 'c.py'\nstages = [dict(name='a', epochs=2, model=dict(depth=9))]\n",
    )
    data = read_config(root / 'sub' / 'd.py').data
    assert data['model'] == {'type': 'Net', 'depth': 1, 'width': 2}
    assert data['optimizer'] == {'type': 'AdamW'}
    assert data['steps'] == [3] and data['epochs'] == 5 and 'extends' not in data
    assert data['stages'] == {
        'a': {'config': f'{root}/sub/../below.py', 'epochs': 2, 'model': {'depth': 9}},
        'b': {},
    }


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("extends = 'b.yaml'", 'c.py: extends b.yaml: a Python file extends Python files only'),
        ("extends = 'c.py'", 'extends itself: .*c.py -> .*c.py'),
        ('1 / 0', 'c.py: ZeroDivisionError'),
        ("extends = 'd.py'\nmodel = dict(depth=dict(a=1))", 'c.py: extends d.py: .*depth'),
    ],
)
def test_python_errors(write, text, message):
    root = write(c_py=text, b_yaml='', d_py='model = dict(depth=1)')
    with pytest.raises(UserError, match=message):
        read_config(root / 'c.py')
