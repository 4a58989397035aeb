"""The arrows between the parts of vadslim: who may import whom, and what each part can do without."""

import ast
import functools
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'projects' / 'vadslim'
FILES = sorted(PACKAGE.rglob('*.py'))
TOOLS = sorted((ROOT / 'tools').rglob('*.py'))

# Part of vadslim -> the other parts that it may import. A new part needs a line here.
BASE = {'checkpoint', 'checkpoint_format', 'cli', 'files', 'image_norm', 'locks', 'old_layouts', 'registry'}
TOOLKIT = {'analysis', 'hooks', 'pruning', 'sparse', 'stages', *BASE}
COMMANDS = {
    'evaluate', 'experiment', 'launch', 'model_analysis', 'options', 'slimming', 'sparse_training', 'structure_run',
    'staged', 'train',
}  # fmt: skip
ARROWS = {
    '__init__': set(),
    'registry': set(),
    'checkpoint': {'files', 'image_norm', 'old_layouts'},
    'checkpoint_format': {'checkpoint', 'old_layouts'},
    'old_layouts': set(),
    'files': set(),
    'locks': set(),
    'image_norm': set(),
    'nuscenes_data': {'cli', 'files'},
    'cli': {'checkpoint', 'locks', 'pruning', 'sparse'},
    'analysis': {'cli', 'pruning', *BASE},
    'pruning': {'checkpoint', 'registry'},
    'sparse': {'checkpoint', 'pruning', 'registry'},
    'hooks': {'analysis', 'pruning', 'sparse', *BASE},
    'stages': {'pruning', *BASE},
    'vad': {'analysis', 'nuscenes_data', 'pruning', *BASE},
    'classification': {'analysis', 'pruning', *BASE},
    'examples': TOOLKIT,
    'testing': TOOLKIT,
    **dict.fromkeys(COMMANDS, TOOLKIT | COMMANDS),
    'sparse_training': {'classification', *TOOLKIT, *COMMANDS},
    **dict.fromkeys(('browse', 'demo', 'visualize'), {'vad', 'visualize', *TOOLKIT, *COMMANDS}),
}
HEAVY = {'mmcv', 'mmdet', 'mmdet3d', 'nuscenes'}  # belong to vad; nuscenes to nuscenes_data as well


parse = functools.cache(ast.parse)  # each file is asked several questions


def nodes(tree: ast.AST, called: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Walk a tree; says of each node whether it stands inside a function."""
    for node in ast.iter_child_nodes(tree):
        yield node, called
        yield from nodes(node, called or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def imports(source: str, package: str) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether at import time) of each import; ``package`` resolves the relative ones."""
    for node, called in nodes(parse(source), False):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split('.')[: len(package.split('.')) - node.level + 1] if node.level else []
            module = '.'.join([*parents, *([node.module] if node.module else [])])
            names = [f'{module}.{alias.name}' for alias in node.names]
        for name in names:
            yield name, not called


def imports_of(path: Path) -> list[tuple[str, bool]]:
    return list(imports(path.read_text(encoding='utf-8'), parts(path)[1]))


def parts(path: Path) -> tuple[str, str]:
    """The part of vadslim that a file belongs to, and the dotted package that holds the file."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix('.py'), '.'.join(['vadslim', *relative.parts[:-1]])


def wrong_arrows(source: str, part: str, package: str) -> list[str]:
    wrong = []
    for name, _ in imports(source, package):
        target = name.split('.')
        if target[0] == 'tools' or target[0] == 'tests':
            wrong.append(name)
        if target[0] == 'vadslim' and len(target) > 1 and target[1] not in {part, '__version__', *ARROWS[part]}:
            wrong.append(name)
    return wrong


def heavy_imports(source: str, part: str, package: str) -> list[str]:
    """What only ``vad`` may import; a command may ask for the rest of mmcv inside a function."""
    return [
        name
        for name, at_import in imports(source, package)
        if part != 'vad' and name.split('.')[0] in HEAVY - ({'nuscenes'} if part == 'nuscenes_data' else set())
        if at_import or part not in COMMANDS or name.split('.')[0] != 'mmcv' or name.startswith('mmcv.ops')
    ]


def test_every_part_has_its_arrows():
    present = {parts(path)[0] for path in FILES}
    assert present <= set(ARROWS), 'a new part of vadslim: say in ARROWS what it may import'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    part, package = parts(path)
    assert wrong_arrows(path.read_text(encoding='utf-8'), part, package) == []
    assert heavy_imports(path.read_text(encoding='utf-8'), part, package) == []


def test_wrong_arrows_are_seen():
    source = """
        import torch, vadslim.vad.head
        from ..vad import boxes
        from .. import vad, registry
        from . import group
        def f():
            from vadslim.hooks import StructureHook
            import mmcv.cnn
        import mmdet3d.models as models
        from tools.train import main
    """
    source = textwrap.dedent(source)
    assert wrong_arrows(source, 'pruning', 'vadslim.pruning') == [
        'vadslim.vad.head',
        'vadslim.vad.boxes',
        'vadslim.vad',
        'vadslim.hooks.StructureHook',
        'tools.train.main',
    ]
    assert heavy_imports(source, 'pruning', 'vadslim.pruning') == ['mmcv.cnn', 'mmdet3d.models']
    assert heavy_imports(source, 'train', 'vadslim') == ['mmdet3d.models']
    assert heavy_imports(source, 'vad', 'vadslim.vad') == []


def test_tools_import_the_package_only():
    for path in TOOLS:
        for name, _ in imports(path.read_text(encoding='utf-8'), 'tools'):
            first = name.split('.')[0]
            assert first not in HEAVY | {'projects', 'tools'} or 'data_converter' in path.parts, (path, name)


def test_names_say_what_is_inside():
    vague = {'core', 'helper', 'helpers', 'manager', 'misc', 'util', 'utils'}
    assert [path for path in [*FILES, *TOOLS] if path.stem in vague] == []
    assert [path for path in FILES if vague & set(path.relative_to(PACKAGE).parts[:-1])] == []


def calls(path: Path, owner: str) -> list[str]:
    """Attributes of ``owner`` that a file uses, and what it imports from it."""
    source = path.read_text(encoding='utf-8')
    used = [
        node.attr
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner
    ]
    return used + [name.removeprefix(f'{owner}.') for name, _ in imports(source, '')]


def test_two_places_read_pickles():
    """One that builds what is on a list, and one that builds stand-ins of whatever is named."""
    for path in [*FILES, *TOOLS]:
        loads = bool({'load'} & set(calls(path, 'torch')))
        unpickles = bool({'load', 'loads', 'Unpickler', '_Unpickler'} & set(calls(path, 'pickle')))
        assert loads == (path == PACKAGE / 'checkpoint.py'), path
        assert unpickles == (path in (PACKAGE / 'checkpoint.py', PACKAGE / 'analysis' / 'unpickler.py')), path


def test_one_place_imports_torch_pruning():
    users = [path for path in FILES if 'torch_pruning' in {name.split('.')[0] for name, _ in imports_of(path)}]
    assert users in ([], [PACKAGE / 'pruning' / 'graph.py'])


# --- without mmcv -------------------------------------------------------------------------------------------

BLOCKED = """
    import os, sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] in {blocked!r}:
                raise ModuleNotFoundError(name + ' is blocked')

    sys.meta_path.insert(0, Blocker())
"""
EACH_IN_ITS_OWN_PROCESS = """
    import gc, importlib, jinja2, statistics, traceback
    import mmengine.runner, torch, torch_pruning  # once, before the forks

    gc.disable()
    gc.freeze()  # a collection in a child would copy all pages
    bad, done = 0, set()
    for name in {modules!r}:
        if name in done:
            continue
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                importlib.import_module(name)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            # what this package has imported, it imports in the same order for whoever asks for one of them first
            os.write(writing, ' '.join(other for other in sys.modules if other.startswith(name + '.')).encode())
            os._exit(0)
        os.close(writing)
        with open(reading) as pipe:
            done.update(pipe.read().split())
        bad += os.waitpid(child, 0)[1] != 0
    sys.exit(bad)
"""


def run(script: str) -> None:
    result = subprocess.run([sys.executable, '-c', script], cwd=ROOT / 'projects', capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def blocked(names: set[str], script: str) -> str:
    return textwrap.dedent(BLOCKED).format(blocked=names) + textwrap.dedent(script)


def modules() -> list[str]:
    found = []
    for path in FILES:
        name = '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix('.__init__')
        if parts(path)[0] != 'vad' and not name.endswith('__main__'):
            found.append(name)
    return found


def test_everything_but_vad_imports_without_mmcv():
    """Each module as the first one of its process, so that a circular import shows as well."""
    names = modules()
    assert {'vadslim', 'vadslim.pruning', 'vadslim.analysis', 'vadslim.hooks', 'vadslim.checkpoint'} <= set(names)
    run(blocked({*HEAVY, 'torchvision'}, EACH_IN_ITS_OWN_PROCESS.format(modules=names)))


def test_the_blocker_blocks():
    with pytest.raises(AssertionError, match='mmcv is blocked'):
        run(blocked(HEAVY, 'import mmcv'))


def test_importing_vadslim_is_light():
    run(blocked({'torch', 'numpy', 'mmengine'}, 'import vadslim'))


def test_nuscenes_data_is_light():
    names = ('converter', 'synthetic', 'vector_map')
    lines = '; '.join(f'import vadslim.nuscenes_data.{name}' for name in names)
    run(blocked({'torch', 'mmengine', *HEAVY}, lines))


# --- old paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stage', ['stage_1', 'stage_2', 'e2e'])
@pytest.mark.parametrize('size', ['tiny', 'base'])
def test_old_config_paths(size, stage):
    """projects/configs is configs, and a config's bases are found under either name."""
    from mmengine.config import Config

    name = f'VAD/VAD_{size}_{stage}.py'
    old = Config.fromfile(ROOT / 'projects' / 'configs' / name, import_custom_modules=False)
    new = Config.fromfile(ROOT / 'configs' / name, import_custom_modules=False)
    assert old.model.type.endswith('VAD')
    assert old.to_dict() == new.to_dict()
