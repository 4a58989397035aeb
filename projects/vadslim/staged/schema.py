"""What a config of a task may say: one table of dotted keys, with their defaults and what is allowed.

A number may be written as a whole one or, as old files do, in quotes (``"1e-3"``); a whole number as ``1e4``;
booleans are no numbers.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vadslim.cli import UserError

from .yaml_files import read_scalar


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Args:
        default: its value where no one says anything.
        kind: bool, int, float or str.
        low: least allowed number.
        high: greatest allowed number; itself not allowed where ``below``.
        above: ``low`` itself is not allowed.
        below: ``high`` itself is not allowed.
        choices: the allowed texts; empty: any.
        optional: null is allowed.
    """

    default: Any
    kind: type
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    choices: Sequence[str] = ()
    optional: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, for people."""
        if self.choices:
            words = f'one of {", ".join(self.choices)}'
        else:
            words = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}[self.kind]
        if self.low > -math.inf:
            words += f' {"above" if self.above else "of at least"} {self.low:.12g}'
        if self.high < math.inf:
            words += f' {"and below" if self.below else "and at most"} {self.high:.12g}'
        return words + (', or null' if self.optional else '')

    def check(self, value: Any) -> Any:
        """The value in its kind.

        Raises:
            ValueError: it is not allowed.
        """
        if value is None and self.optional:
            return None
        if self.kind is float and isinstance(value, str):
            value = float(value)
        types: Any = {bool: bool, int: int | float, float: int | float, str: str}[self.kind]
        if not isinstance(value, types) or (isinstance(value, bool) and self.kind is not bool):
            raise ValueError
        if self.kind in (int, float) and not self._holds(value):
            raise ValueError
        if self.kind is str and (not value.strip() or '\0' in value):  # a folder with no name is this one
            raise ValueError
        if self.choices and value not in self.choices:
            raise ValueError
        return self.kind(value)

    def _holds(self, value: float) -> bool:
        """Whether a number is one that is allowed."""
        if not math.isfinite(value) or (self.kind is int and value != int(value)):
            return False
        high_enough = value > self.low if self.above else value >= self.low
        return high_enough and (value < self.high if self.below else value <= self.high)

    def read(self, text: str) -> Any:
        """The value that a text of the command line stands for.

        Raises:
            ValueError: as of :meth:`check`.
        """
        if self.kind is str and not (self.optional and text.lower() in ('null', 'none', '~')):
            return self.check(text)
        return self.check(None if text.lower() == 'none' else read_scalar(text))


def flag(default: bool) -> Setting:
    """True or false."""
    return Setting(default, bool)


def whole(default: int | None, low: float = 1, high: float = math.inf, optional: bool = False) -> Setting:
    """A whole number."""
    return Setting(default, int, low, high, optional=optional)


def number(default: float | None, low: float = 0, high: float = math.inf, **options: Any) -> Setting:
    """A finite number."""
    return Setting(default, float, low, high, **options)


def text(default: str | None, *choices: str, optional: bool = False) -> Setting:
    """A text, or one of some."""
    return Setting(default, str, choices=choices, optional=optional)


@dataclass(frozen=True)
class Schema:
    """The table of a task.

    Args:
        settings: dotted key -> what is allowed.
        problem: takes the whole flat settings and says what does not go together, ``KEY: why``; None: nothing.
    """

    settings: Mapping[str, Setting]
    problem: Callable[[Mapping[str, Any]], str | None] = lambda settings: None

    @property
    def sections(self) -> list[str]:
        """Dotted names of all mappings."""
        names = [key.rsplit('.', depth)[0] for key in self.settings for depth in range(1, key.count('.') + 1)]
        return sorted(set(names))

    def defaults(self) -> dict[str, Any]:
        """Dotted key -> default."""
        return {key: setting.default for key, setting in self.settings.items()}

    def check(self, data: Mapping[str, Any], where: Callable[[str], str], more: Sequence[str] = ()) -> dict[str, Any]:
        """Flatten nested data.

        Args:
            data: sections as in a file.
            where: dotted key -> where it was set, the start of an error.
            more: other keys that are known at the top, for suggestions.

        Returns:
            Dotted key -> value, of what is in the data only.

        Raises:
            UserError: an unknown key or a wrong value.
        """
        return dict(self._walk(data, '', where, more))

    def _walk(
        self, data: Mapping[str, Any], prefix: str, where: Callable[[str], str], more: Sequence[str]
    ) -> Iterator[tuple[str, Any]]:
        for name, value in data.items():
            key = f'{prefix}{name}'
            if '.' in name:
                raise UserError(f'{where(key)}: {key}: write sections as mappings, not with dots')
            if key in self.settings:
                yield key, self.value(key, value, where(key))
            elif key not in self.sections:
                raise UserError(f'{where(key)}: {key:.80}: there is no such setting{self.hint(key, more)}')
            elif isinstance(value, Mapping):
                yield from self._walk(value, f'{key}.', where, more)
            elif value is not None:
                raise UserError(f'{where(key)}: {key} is {value!r:.60}; a mapping of settings is needed')

    def value(self, key: str, value: Any, where: str) -> Any:
        """Check one value; ``where`` starts the error."""
        setting = self.settings[key]
        try:
            return setting.check(value)
        except (ValueError, OverflowError):
            raise UserError(f'{where}: {key} is {_show(value)}; {setting.allowed} is needed') from None

    def hint(self, key: str, more: Sequence[str] = ()) -> str:
        """Name what an unknown key may have meant: the most similar name, rather in its own section."""
        section, _, name = key.rpartition('.')

        def likeness(other: str) -> float:
            beside, _, known = other.rpartition('.')
            return difflib.SequenceMatcher(None, name, known).ratio() + 0.2 * (beside == section)

        return f'; the nearest is {max([*self.settings, *self.sections, *more], key=likeness)}'


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys -> nested dicts."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split('.')
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def _show(value: Any) -> str:
    """A value as YAML writes it."""
    words = {None: 'null', True: 'true', False: 'false'}
    return words[value] if value is None or isinstance(value, bool) else f'{value!r:.60}'
