"""Config files with what they extend: ``extends: base.yaml``, read whole before anything is checked.

The path is relative to the file that names it. Mappings are merged at every depth, the file's own values win; lists
are replaced whole, except ``stages``: its entries are merged by name, those of the base keep their places and new ones
follow. An empty mapping entry (``training:`` with nothing below) changes nothing. A YAML file extends YAML files; a
Python file has MMEngine's ``_base_``, and may extend Python files beside it, which are merged as ``_base_`` is
(``_delete_`` works).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vadslim.cli import UserError

from .yaml_files import read_yaml

YAML, PYTHON = ('.yaml', '.yml'), ('.py',)
#: a stage's name is its folder's, and a part of dotted keys
STAGE_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]{0,63}')


@dataclass(frozen=True)
class Source:
    """What a file and those that it extends say.

    Args:
        name: the file, for people.
        data: plain data without ``extends``; ``stages`` is {name: the rest of its entry}, in order.
        lines: dotted key -> ``FILE:LINE`` where its value was set; a stage's keys are ``stages.NAME.KEY``. Empty for
            Python.
    """

    name: str
    data: dict[str, Any]
    lines: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_yaml(self) -> bool:
        """Whether the file is a YAML file."""
        return Path(self.name).suffix.lower() in YAML

    def where(self, key: str) -> str:
        """Where a dotted key, or what it stands in, was set."""
        while key and key not in self.lines:
            key = key.rpartition('.')[0]
        return self.lines.get(key, self.name)


def read_config(path: Path, chain: tuple[Path, ...] = ()) -> Source:
    """Read a file with all that it extends.

    Args:
        path: a YAML or Python file.
        chain: the files that extend it, outermost first.

    Raises:
        UserError: one line: a file is missing, cannot be read, is of another kind, or extends itself.
    """
    kinds = _kinds(path)
    _check_file(path, kinds)
    real = path.resolve()
    if real in (files := [file.resolve() for file in chain]):
        names = ' -> '.join(map(str, [*chain[files.index(real) :], path]))
        raise UserError(f'{path}: extends itself: {names}')
    data, lines = _read_python(path) if kinds is PYTHON else read_yaml(path)
    where = {key: f'{path}:{line}' for key, line in lines.items()}
    base = data.pop('extends', None)
    source = _with_named_stages(Source(str(path), data, where))
    if base is None:
        return source
    here = where.get('extends', str(path))
    if not isinstance(base, str) or not base.strip():
        raise UserError(f'{here}: extends is {base!r:.60}; the path of one file is needed, relative to this one')
    parent = path.parent / Path(base).expanduser()
    if _kinds(parent, here) is not kinds:
        kind = 'Python' if kinds is PYTHON else 'YAML'
        raise UserError(f'{here}: extends {base}: a {kind} file extends {kind} files only ({", ".join(kinds)})')
    _check_file(parent, kinds, f'{here}: extends: ')
    below = read_config(parent, (*chain, path))
    merge = merge_python if kinds is PYTHON else deep_merge
    try:
        merged = merge(below.data, source.data)
    except (KeyError, TypeError, AssertionError) as error:  # MMEngine's: what cannot be merged
        raise UserError(f'{path}: extends {base}: {error.args[0] if error.args else error}') from None
    return Source(str(path), merged, {**below.lines, **source.lines})


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings at every depth; ``over`` wins, but for an empty entry over a mapping. One with MMEngine's
    ``_delete_`` is no addition and stays whole.
    """
    merged = dict(base)
    for key, value in over.items():
        below: Any = base.get(key)
        if isinstance(below, Mapping) and value is None:
            continue
        adds = isinstance(below, Mapping) and isinstance(value, Mapping) and not value.get('_delete_')
        merged[key] = deep_merge(below, value) if adds else value
    return merged


def merge_python(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge MMEngine configs as ``_base_`` does; plain data. Raises what MMEngine raises."""
    from mmengine.config import Config

    cfg = Config({key: value for key, value in base.items() if key != 'stages'})
    cfg.merge_from_dict({key: value for key, value in over.items() if key != 'stages'})
    merged: dict[str, Any] = cfg.to_dict()
    stages = deep_merge(base.get('stages', {}), over.get('stages', {}))
    return {**merged, 'stages': stages} if stages else merged


def _read_python(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    from vadslim.options import load_config

    return load_config(path).to_dict(), {}


def _kinds(path: Path, here: str | None = None) -> tuple[str, ...]:
    for kinds in (YAML, PYTHON):
        if path.suffix.lower() in kinds:
            return kinds
    raise UserError(f'{here or "config"}: {path.name}: not a config; its name ends in {", ".join(YAML + PYTHON)}')


def _check_file(path: Path, kinds: tuple[str, ...], here: str = '') -> None:
    if path.is_file():
        return
    files = path.parent.iterdir() if path.parent.is_dir() else ()
    names = [entry.name for entry in files if entry.suffix.lower() in kinds and entry.is_file()]
    near = difflib.get_close_matches(path.name, names, 1)
    hint = f'; did you mean {path.with_name(near[0])}?' if near else ''
    raise UserError(f'{here}{path}: no such config{hint}')


def _with_named_stages(source: Source) -> Source:
    """The list of stages as a mapping of their names, in ``data`` and in ``lines``."""
    data = source.data
    entries = data.get('stages')
    if entries is None:
        data.pop('stages', None)
        return source
    if not isinstance(entries, list):
        raise UserError(
            f'{source.where("stages")}: stages is {entries!r:.60}; a list of entries such as '
            '{name: dense, epochs: 60} is needed'
        )
    stages: dict[str, Any] = {}
    places: dict[str, str] = {}
    for index, entry in enumerate(entries):
        here = source.where(f'stages.{index}')
        name = entry.get('name') if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or not STAGE_NAME.fullmatch(name):
            raise UserError(
                f'{here}: stage {index + 1}: name is {name!r:.60}; a name for its folder is needed: letters, digits, '
                '_ and -, at most 64'
            )
        twin = next((other for other in stages if other.lower() == name.lower()), None)
        if twin is not None:
            raise UserError(f'{here}: stage {index + 1}: a stage before it is called {twin} already; names are unique')
        stages[name] = {key: value for key, value in entry.items() if key != 'name'}
        places[str(index)] = name
    lines = {key: line for key, line in source.lines.items() if not key.startswith('stages.')}
    for key, line in source.lines.items():
        if key.startswith('stages.'):
            _, place, *rest = key.split('.')
            lines['.'.join(['stages', places[place], *rest])] = line
    named = Source(source.name, {**data, 'stages': stages}, lines)
    for name, entry in stages.items():
        _localise(named, name, entry, lines)
    return named


def _localise(source: Source, name: str, entry: dict[str, Any], lines: dict[str, str]) -> None:
    """Say in an entry what other files can be merged with: ``config`` from here, ``epochs`` in its section."""
    if Path(source.name).suffix.lower() in PYTHON:
        if isinstance(entry.get('config'), str):
            entry['config'] = str(Path(source.name).parent / Path(entry['config']).expanduser())
        return
    training = entry.get('training') or {}
    if 'epochs' not in entry or not isinstance(training, Mapping):
        return
    key = f'stages.{name}.epochs'
    if 'epochs' in training:
        raise UserError(f'{source.where(key)}: stages.{name}: epochs stands in training too; say it once')
    entry['training'] = {**training, 'epochs': entry.pop('epochs')}
    lines[f'stages.{name}.training.epochs'] = source.where(key)
