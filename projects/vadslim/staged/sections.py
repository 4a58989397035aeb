"""Settings of the stages of a config with sections (model, training, data ...), checked by the schema of its task."""

from collections.abc import Mapping
from typing import Any

from vadslim.cli import UserError

from .extends import Source
from .flags import option_of
from .schema import Schema, nest
from .tasks import schema_of

TOP_KEYS = ('extends', 'stages', 'task')


class Sections:
    """The file's part of the settings; :meth:`stage` adds the rest.

    Args:
        source: the file.
        task: of the checkpoint that is resumed; a file without one is of that task.
        entry_keys: keys of a stage that are no sections, for suggestions.
    """

    def __init__(self, source: Source, task: str | None, entry_keys: tuple[str, ...]) -> None:
        self.source, self.entry_keys = source, entry_keys
        self.task = source.data.get('task', task or 'ink')
        self.schema = schema_of(self.task, source.where('task'))
        data = {key: value for key, value in source.data.items() if key not in ('stages', 'task')}
        self.file = self.schema.check(data, source.where, TOP_KEYS)
        self.notes: list[str] = []

    def stage(
        self, name: str, entry: Mapping[str, Any], over: Mapping[str, Any], saved: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Resolve a stage's settings.

        Args:
            name: the stage.
            entry: its sections.
            over: the command line, dotted key -> value or text.
            saved: the config of the checkpoint that is resumed, or nothing.

        Raises:
            UserError: a key or value that is none, or settings that do not go together.
        """

        def where(key: str) -> str:
            return f'{self.source.where(f"stages.{name}.{key}")}: stages.{name}'

        own = {**self.schema.check(entry, where, self.entry_keys), **command_line(self.schema, over)}
        settings = {**self.schema.defaults(), **self._kept(saved), **self.file, **own}
        if problem := self.schema.problem(settings):
            key = problem.partition(' ')[0]
            place = self.source.where(key) if key in self.file and key not in own else where(key)
            raise UserError(f'{option_of(key) if key in over else place}: {problem}')
        return {'task': self.task, **nest(settings)}

    def _kept(self, saved: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
        """What a checkpoint's config says that the schema knows; what it does not know was of another version."""
        kept: dict[str, Any] = {}
        for name, value in saved.items():
            key = f'{prefix}{name}'
            if key in TOP_KEYS:
                continue
            if key in self.schema.sections and (value is None or isinstance(value, Mapping)):
                kept |= self._kept(value or {}, f'{key}.')
                continue
            try:
                kept[key] = self.schema.value(key, value, 'the checkpoint')
            except (KeyError, UserError) as error:
                why = error if isinstance(error, UserError) else f'the checkpoint: {key}: there is no such setting now'
                self.notes.append(f'{why}; left out')
        return kept


def command_line(schema: Schema, over: Mapping[str, Any]) -> dict[str, Any]:
    """Check what the command line says; texts are read as the schema's kinds."""
    values = {}
    for key, value in over.items():
        if key not in schema.settings:
            if key in schema.sections:
                raise UserError(
                    f'{option_of(key, value)}: a mapping of settings; set them one by one, such as {key}.KEY=VALUE'
                )
            raise UserError(f'{option_of(key, value)}: there is no such setting{schema.hint(key, ("init_from",))}')
        setting = schema.settings[key]
        try:
            values[key] = setting.read(value) if isinstance(value, str) else setting.check(value)
        except (ValueError, OverflowError):
            raise UserError(f'{option_of(key, value)} {value}: {setting.allowed} is needed') from None
    return values
