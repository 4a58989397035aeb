"""The parameters of a model that ``config.json`` alone tells of: names, shapes and types as its checkpoint has them.

Nothing is built, and nothing but the standard library is needed; what is known of each kind of model stands in
``config_families``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vadslim.analysis.config_families import FAMILIES, NUMBERS, Family
from vadslim.analysis.headers import Entry, HeaderError
from vadslim.files import StrPath

#: ``dtype`` of a config -> as in safetensors
_DTYPES = {
    'float32': 'F32', 'float': 'F32', 'float16': 'F16', 'half': 'F16', 'bfloat16': 'BF16', 'float64': 'F64',
}  # fmt: skip
_MOST_RUNS = 10_000  # layers, experts: a number beyond that is a mistake
_MOST_TENSORS = 1_000_000
_LARGEST = 2**40


def tensors_of(config: Mapping[str, Any], path: StrPath = 'config.json') -> dict[str, Entry]:
    """All parameters of the model that a ``config.json`` of Hugging Face describes.

    Args:
        config: its content. ``architectures`` says which head the model has.
        path: where it was read, for messages and as the storage of what is returned.

    Returns:
        name -> shape and type, in the model's order. Tied tensors have the same storage; offsets are None.

    Raises:
        HeaderError: the kind of model is not known, it is quantised or of several parts, a value is missing or wrong.
    """
    family, end = _family(config, path)
    numbers = _Numbers(config, family, path)
    dtype = _dtype(config, path)
    tensors: dict[str, Entry] = {}
    for prefix, lines in _blocks(family.template):
        rows = [row for line in lines for row in _rows(line, end, numbers)]
        if sum(numbers.count_runs(prefix + name) for name, *_ in rows) > _MOST_TENSORS:
            raise HeaderError(f'{path}: describes more than {_MOST_TENSORS:,} tensors')
        for start in numbers.runs(prefix):
            for name, shape, tied in rows:
                for full in numbers.runs(start + name):
                    full = full.removeprefix(family.base) if end == 'Model' else full
                    storage = tied if tied and numbers['tied'] else full
                    tensors[full] = Entry(shape, dtype, (str(path), storage, 0))
    return tensors


def _family(config: Mapping[str, Any], path: StrPath) -> tuple[Family, str]:
    """What a config is of, and how the name of its class ends."""
    kind = config.get('model_type')
    parts = [str(key) for key, value in config.items() if str(key).endswith('_config') and isinstance(value, dict)]
    if config.get('quantization_config'):
        raise HeaderError(f'{path}: has a quantization_config; the shapes of quantised weights are not in a config')
    if 'text_config' in parts:
        raise HeaderError(f'{path}: {kind!r:.40} has parts ({", ".join(parts)}); only models of one part are known')
    if not isinstance(kind, str) or kind not in FAMILIES:
        import difflib

        near = difflib.get_close_matches(str(kind), FAMILIES, 1, 0.0)[0]
        others = ', '.join(name for name in FAMILIES if name != near)
        raise HeaderError(f'{path}: model_type {kind!r:.40} is not known; known are {near} and {others}')
    family = FAMILIES[kind]
    for key, value in family.only.items():
        if config.get(key) not in (None, value):
            raise HeaderError(f'{path}: {key} is {config[key]!r:.40}; of {kind} only {value!r} is known')
    ends = {'Model': None, **{end: None for line in family.template.splitlines() for end in _ends(line) or ()}}
    known = [family.classes + end for end in ends]
    classes = config.get('architectures') or [family.classes + family.default]
    if not isinstance(classes, list) or classes[0] not in known:
        raise HeaderError(f'{path}: architectures is {classes!r:.80}; of {kind} known are {", ".join(known)}')
    return family, classes[0].removeprefix(family.classes)


def _dtype(config: Mapping[str, Any], path: StrPath) -> str:
    name = next((config[key] for key in ('dtype', 'torch_dtype') if config.get(key) not in (None, 'auto')), 'float32')
    kind = _DTYPES.get(name.removeprefix('torch.')) if isinstance(name, str) else None
    if kind is None:
        raise HeaderError(f'{path}: dtype is {name!r:.40}; known are {", ".join(_DTYPES)}')
    return kind


# --- the language of the templates -------------------------------------------------------------------------


def _blocks(template: str) -> Iterator[tuple[str, list[str]]]:
    """Prefixes, and the lines under each of them."""
    prefix, lines = '', list[str]()
    for line in filter(None, template.splitlines()):
        if line[0] == ' ':
            lines.append(line)
            continue
        if prefix or line[-1] == ':':
            yield prefix, lines
            prefix, lines = '', []
        if line[-1] == ':':
            prefix = f'{line[:-1]}.'
        else:
            lines.append(line)
    yield prefix, lines


def _rows(line: str, end: str, numbers: _Numbers) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and tied name of what a line stands for: nothing, a tensor, or a weight and its bias."""
    name, *words = line.split()
    ends = _ends(line)
    marks = {word[0]: word[1:] for word in words if word[0] in '+?='}
    if ends is not None and end not in ends or not numbers.compute(marks.get('?', '1')):
        return
    shape = tuple(numbers.compute(word) for word in words if word[0] not in '+?=@')
    yield name, shape, marks.get('=', '')
    if numbers.compute(marks.get('+', '0')):
        yield name.removesuffix('weight') + 'bias', shape[:1], ''


def _ends(line: str) -> list[str] | None:
    return next((word[1:].split(',') for word in line.split() if word[0] == '@'), None)


class _Numbers(dict[str, int]):
    """The numbers of a config by the words of the templates."""

    def __init__(self, config: Mapping[str, Any], family: Family, path: StrPath) -> None:
        super().__init__()
        self.config, self.path = config, path
        for word, source in {**NUMBERS, **family.numbers}.items():
            self[word] = source if isinstance(source, int) else self._read(source)
            if f'{{{word}}}' in family.template and self[word] > _MOST_RUNS:
                raise HeaderError(f'{path}: {source} is {self[word]:,}; at most {_MOST_RUNS:,} are believed')

    def _read(self, source: str) -> int:
        keys, _, default = source.lstrip('?#').partition('=')
        if not keys:
            return self.compute(default)
        found = {key: self.config[key] for key in keys.split('/') if key in self.config}
        given = {key: value for key, value in found.items() if value is not None}
        if not given:
            missing, _, null = default.partition('|')
            if found and missing.isdecimal() and not null:
                raise HeaderError(f'{self.path}: {next(iter(found))} is null')
            if not missing:
                raise HeaderError(f'{self.path}: has no {keys.replace("/", " or ")}')
            return self.compute(null if found and null else missing)
        key, value = next(iter(given.items()))
        if any(other != value for other in given.values()):
            raise HeaderError(f'{self.path}: {" and ".join(given)} say the same thing, but they differ')
        if source[0] == '#' and isinstance(value, dict):
            value = len(value)
        if source[0] == '?' and type(value) is not bool:
            raise HeaderError(f'{self.path}: {key} is {value!r:.40}; it must be true or false')
        if source[0] != '?' and not (type(value) is int and 0 < value <= _LARGEST):
            raise HeaderError(f'{self.path}: {key} is {value!r:.40}; it must be a whole number from 1 to {_LARGEST:,}')
        return int(value)

    def compute(self, text: str) -> int:
        """The value of sums and products of words and numbers: ``heads*width+2``."""
        total = 0
        for sign, product in re.findall(r'([+-]?)([^+-]+)', text):
            value = 1
            for operator, word in re.findall(r'([*/]?)(\w+)', product):
                factor = int(word) if word.isdecimal() else self[word]
                if operator == '/' and value % factor:
                    raise HeaderError(f'{self.path}: {text} is no whole number: {value} / {factor}')
                value = value // factor if operator == '/' else value * factor
            total += -value if sign == '-' else value
        return total

    def count_runs(self, name: str) -> int:
        """How many names ``runs`` gives."""
        return math.prod(self[word] for word in re.findall(r'\{(\w+)\}', name))

    def runs(self, name: str) -> Iterator[str]:
        """A name with all its numbers: ``h.{layers}`` is ``h.0``, ``h.1`` ..."""
        found = re.search(r'\{(\w+)\}', name)
        if found is None:
            yield name
            return
        for number in range(self[found[1]]):
            yield from self.runs(name.replace(found[0], str(number), 1))
