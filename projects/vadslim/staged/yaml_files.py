"""YAML for configs: plain data and the line of each key.

Read as YAML 1.2 where PyYAML's 1.1 surprises: ``1e-3`` is a number, ``010`` is ten, ``12:30`` and ``2026-01-31``
are texts (``on``, ``off``, ``yes`` and ``no`` stay booleans). A key that stands twice is an error, what aliases
expand to is bounded, tags that build objects are refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from vadslim.cli import UserError

MAX_BYTES, MAX_VALUES, MAX_BRACKETS = 1 << 20, 100_000, 100
_TAG = 'tag:yaml.org,2002:'
_CONTAINERS = {f'{_TAG}map', f'{_TAG}seq'}
_RESOLVERS = {
    'bool': (r'(?i:true|false|yes|no|on|off)', 'tTfFyYnNoO'),
    'int': (r'[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+', '-+0123456789'),
    'float': (
        r'[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)|\.(?i:nan)',
        '-+.0123456789',
    ),
    'null': (r'~|(?i:null)|', ['~', 'n', 'N', '']),
    'merge': (r'<<', '<'),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, Any] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # before merge keys are followed: those may be overridden
                first = seen.setdefault(key.value, key)
                if first is not key:
                    raise _error(key, f'the key {key.value} stands in line {_line(first)} already')
        return node

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level > MAX_BRACKETS:  # each level makes each token dearer
            raise yaml.MarkedYAMLError(None, None, 'brackets are nested too deeply', self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_number(self, node: Any) -> int:
        text = self.construct_scalar(node).replace('_', '')
        return int(text, 16 if text.lower().startswith('0x') else 10)


for _kind, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf'(?:{_pattern})\Z'), list(_first))
_Loader.add_constructor(f'{_TAG}int', _Loader.construct_number)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a file that holds a mapping; an empty file holds an empty one.

    Returns:
        The data, and the line (from 1) of each dotted key; items of lists count from 0: ``stages.0.name``.

    Raises:
        UserError: ``FILE:LINE: what is wrong``.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f'{path}: {path.stat().st_size} bytes are too many for a config; {MAX_BYTES} are allowed')
        return _parse(path.read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from None
    except UnicodeDecodeError:
        raise UserError(f'{path}: not a text in UTF-8') from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f':{mark.line + 1}' if mark else ''
        raise UserError(f'{path}{line}: {_text(error)}') from None
    except yaml.reader.ReaderError as error:
        raise UserError(f'{path}: character {error.position} cannot stand in YAML') from None
    except RecursionError:
        raise UserError(f'{path}: nested too deeply') from None


def read_scalar(text: str) -> Any:
    """Read a value from the command line as YAML would: a number, a boolean, null, a list or a text.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return _parse(f'value: {text}')[0]['value']
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(_text(error)) from None


def _parse(text: str) -> tuple[dict[str, Any], dict[str, int]]:
    loader = _Loader(text)
    lines: dict[str, int] = {}
    try:
        root = loader.get_single_node()
        if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == f'{_TAG}null'):
            return {}, lines
        if not isinstance(root, yaml.MappingNode):
            raise _error(root, 'a config is a mapping, with lines such as "training:"')
        _count(root, {})
        return _plain(loader, root, '', lines), lines
    finally:
        loader.dispose()


def _count(node: Any, counts: dict[int, int | None]) -> int:
    """How many values a node expands to."""
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            raise _error(node, 'an alias that contains itself')
        return known
    counts[id(node)] = None
    total = 1 + sum(_count(child, counts) for child in _children(node))
    if total > MAX_VALUES:
        raise _error(node, f'aliases expand to more than {MAX_VALUES} values')
    counts[id(node)] = total
    return total


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _plain(loader: _Loader, node: Any, key: str, lines: dict[str, int]) -> Any:
    """Plain data of a node, nothing of it shared; notes the line of each dotted key below ``key``."""
    if isinstance(node, yaml.ScalarNode):
        try:
            return loader.construct_object(node)
        except ValueError:
            raise _error(node, f'a whole number of {len(node.value)} digits is too long') from None
    if node.tag not in _CONTAINERS:
        raise _error(node, f'the tag {node.tag.replace(_TAG, "!!")} is not allowed')
    prefix = f'{key}.' if key else ''
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            lines[f'{prefix}{index}'] = _line(child)
            items.append(_plain(loader, child, f'{prefix}{index}', lines))
        return items
    loader.flatten_mapping(node)
    data = {}
    for name_node, child in node.value:
        name = _plain(loader, name_node, key, {})
        if not isinstance(name, str):
            shown = f' {name_node.value:.40}' if isinstance(name_node, yaml.ScalarNode) else ''
            raise _error(name_node, f'the key{shown} is no text; write it in quotes')
        lines[f'{prefix}{name}'] = _line(name_node)
        data[name] = _plain(loader, child, f'{prefix}{name}', lines)
    return data


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _error(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, node.start_mark)


def _text(error: Exception) -> str:
    problem = getattr(error, 'problem', None) or str(error)
    return ' '.join(f'{getattr(error, "context", None) or ""} {problem}'.split())
