"""Whose command line one of ``train.py`` is: that of a staged run, or of a plain training. Nothing is run to tell."""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vadslim.analysis.headers import HeaderError, read_headers
from vadslim.old_layouts import stage_of_name

from .extends import PYTHON, YAML

_FLAGS = {'--stage', '--run-all-stages', '--run_all_stages'}


def is_staged(argv: Sequence[str]) -> bool:
    """Tell a staged run: by its flags, its config, or the checkpoint that it resumes where there is no config.

    A YAML config is always a staged one, a Python config if it, or one of its bases, has ``stages`` or ``extends``.
    What cannot be read is nobody's: the plain training says what is wrong with it.
    """
    if _FLAGS & {word.partition('=')[0] for word in argv}:
        return True
    config = _value(argv, '--config') or next((word for word in argv if _is_config(word)), None)
    if config is not None:
        return Path(config).suffix.lower() in YAML or _has_stages(Path(config))
    resumed = _value(argv, '--resume')
    return resumed not in (None, 'latest') and _stage_of(Path(str(resumed))) is not None


def _is_config(word: str) -> bool:
    return '=' not in word and word.lower().endswith((*YAML, *PYTHON))


def _value(argv: Sequence[str], option: str) -> str | None:
    for word, following in zip(argv, [*argv[1:], '--']):
        if word.startswith(f'{option}='):
            return word.partition('=')[2]
        if word == option:
            return None if following.startswith('--') else following
    return None


def _has_stages(path: Path, above: tuple[Path, ...] = ()) -> bool:
    """Read a Python config's source, which MMEngine cannot do yet: it may only be imported when GPUs are chosen."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False
    values = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if isinstance(_literal(values.get('extends')), str) or _are_stages(values.get('stages')):
        return True
    bases = _literal(values.get('_base_'))
    names = [bases] if isinstance(bases, str) else bases if isinstance(bases, list | tuple) else []
    files = [path.parent / name for name in names if isinstance(name, str)] + _imported(body, path)
    return any(_has_stages(file, (*above, path)) for file in files if file not in above)


def _imported(body: list[ast.stmt], path: Path) -> list[Path]:
    """The files beside a config from which it imports stages: ``with read_base(): from .base import *``."""
    found = []
    for block in body:
        calls = [item.context_expr for item in block.items] if isinstance(block, ast.With) else []
        if not any(isinstance(call, ast.Call) and ast.unparse(call.func).endswith('read_base') for call in calls):
            continue
        for line in block.body:
            if not (isinstance(line, ast.ImportFrom) and line.level and line.module):
                continue
            if {'*', 'stages'} & {alias.name for alias in line.names}:
                folder = path.absolute().parents[line.level - 1]
                found.append(folder.joinpath(*line.module.split('.')).with_suffix('.py'))
    return found


def _are_stages(value: ast.expr | None) -> bool:
    """Tell stages from a variable of that name, such as those of a backbone: numbers."""
    items = _literal(value)
    return value is not None and (items is ... or (isinstance(items, list) and any(isinstance(i, dict) for i in items)))


def _literal(value: ast.expr | None) -> Any:
    """A value that needs no running; ``...`` of any other."""
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return ...


def _stage_of(path: Path) -> str | None:
    """The stage that a checkpoint says, or a predecessor's file by its name; None of what a command has written."""
    try:
        headers = read_headers(path)
    except HeaderError:
        return None
    stage = headers.metadata.get('stage')
    if isinstance(stage, str):
        return None if headers.metadata.get('command') else stage
    return None if headers.metadata or headers.meta else stage_of_name(path.name)
