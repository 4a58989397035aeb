"""Settings of the stages of a Python config: MMEngine configs, each with its stage's values put over it.

MMEngine is imported when a function here is called.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vadslim.cli import UserError

from .extends import Source, merge_python, read_config
from .flags import option_of
from .tasks import COMMON
from .yaml_files import read_scalar

_ENDLESS = 10**9  # what MMEngine's schedulers take for no end
# what the short options are in an MMEngine config
_PLACES = {
    'training.lr': ('optim_wrapper.optimizer.lr',),
    'training.epochs': ('train_cfg.max_epochs',),
    'training.batch_size': ('train_dataloader.batch_size',),
    'data.num_workers': tuple(f'{name}_dataloader.num_workers' for name in ('train', 'val', 'test')),
    'seed': ('randomness.seed',),
}


class PythonConfig:
    """The file's part of the settings; :meth:`stage` adds the rest.

    Args:
        source: the file.
        entry_keys: keys of a stage that are no values of the config, for suggestions.
    """

    def __init__(self, source: Source, entry_keys: tuple[str, ...]) -> None:
        self.source, self.entry_keys = source, (*entry_keys, 'config')
        self.file = {key: value for key, value in source.data.items() if key != 'stages'}
        self.schedules: dict[str, list[str]] = {}  # of stages: what was done to them, for the user

    def stage(
        self, name: str, entry: Mapping[str, Any], over: Mapping[str, Any], saved: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Resolve a stage's config.

        Args:
            name: the stage.
            entry: values put over the file, nested or with dotted keys; ``config``: another file in its place;
                ``epochs``: of the stage.
            over: the command line, dotted key -> value or text.
            saved: the config of the checkpoint that is resumed, or nothing; the file is put over it.

        Returns:
            A whole MMEngine config as plain data.

        Raises:
            UserError: a key that is none names the nearest; a value that cannot be put in its place.
        """
        from mmengine.config import Config

        from vadslim.options import merge_options

        values = dict(entry)
        path, epochs = values.pop('config', None), values.pop('epochs', None)
        where = f'{self.source.name}: stages.{name}'
        file = _file(path, where) if path is not None else self.file
        try:
            cfg = Config(merge_python(saved, file) if saved else file)
        except (KeyError, TypeError, AssertionError) as error:  # MMEngine's: what cannot be merged
            raise UserError(f'{where}: over the checkpoint: {error.args[0] if error.args else error}') from None
        planned = (cfg.get('train_cfg') or {}).get('max_epochs')
        self._check_names(values, cfg, where)
        merge_options(cfg, dict(_leaves(values)), f'{where}:')
        if epochs is not None:
            number = _number('training.epochs', epochs, f'{where}: epochs')
            merge_options(cfg, {'train_cfg.max_epochs': number}, f'{where}:')
        for key, value in over.items():
            option = option_of(key, value)
            if key not in _PLACES:
                merge_options(cfg, {key: _read(value, option) if isinstance(value, str) else value}, '--set')
                continue
            number = _number(key, value, option)
            places = [place for place in _PLACES[key] if cfg.get(place.split('.')[0]) or key == 'seed']
            merge_options(cfg, dict.fromkeys(places, number), f'{option}:')
            for place in places if key == 'data.num_workers' and number == 0 else ():
                cfg[place.split('.')[0]].pop('persistent_workers', None)  # which no workers cannot be
        if epochs is not None or 'training.epochs' in over:
            self.schedules[name] = fit_schedule(cfg, planned)
        return cfg.to_dict()  # type: ignore[no-any-return]

    def _check_names(self, values: Mapping[str, Any], cfg: Any, where: str) -> None:
        """Raise where a key is no key of the config, and almost one of a stage."""
        for key in values:
            near = difflib.get_close_matches(key, self.entry_keys, 1, 0.75)
            if near and key.split('.')[0] not in cfg:
                raise UserError(f'{where}: {key}: there is no such key; the nearest is {near[0]}')


def fit_schedule(cfg: Any, planned: int | None) -> list[str]:
    """Let schedules that were written to end with the training do so when its epochs have changed, in place.

    MMEngine lets a schedule without an ``end`` last as long as the training; one that says when it ends would stop
    early, or be cut off.

    Args:
        cfg: an MMEngine config with its new ``train_cfg.max_epochs``.
        planned: the epochs that it had.

    Returns:
        A line for each schedule that was moved, or that is left as it is and goes beyond the training.
    """
    epochs, found = cfg.train_cfg.max_epochs, cfg.get('param_scheduler') or []
    lines = []
    groups = found.items() if isinstance(found, Mapping) and 'type' not in found else [('', found)]
    for group, listed in groups:
        for scheduler in [listed] if isinstance(listed, Mapping) else listed:
            if epochs == planned or not scheduler.get('by_epoch', True):
                continue
            begin = scheduler.get('begin', 0)
            ends = {'end': planned, 'T_max': planned - begin, 'total_steps': planned} if planned else {}
            moved = [key for key, value in ends.items() if scheduler.get(key) == value]
            kind = f'param_scheduler {group}{" " if group else ""}{scheduler.get("type")}'
            late = [step for step in scheduler.get('milestones') or () if step >= epochs]
            if begin >= epochs or late or (not moved and epochs < scheduler.get('end', 0) < _ENDLESS):
                lines.append(f'{kind} was written for {planned} epochs and is left as it is: the training has {epochs}')
            elif moved:
                scheduler.update({key: epochs - planned + scheduler[key] for key in moved})
                lines.append(
                    f'{kind}: {" and ".join(moved)} changed to end with epoch {epochs}, as with {planned} before'
                )
    return lines


def _file(path: Any, where: str) -> dict[str, Any]:
    if not isinstance(path, str) or Path(path).suffix.lower() != '.py':
        raise UserError(f'{where}: config is {path!r:.60}; the path of a Python config is needed')
    return {key: value for key, value in read_config(Path(path)).data.items() if key != 'stages'}


def _leaves(values: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested values, a new ``type`` first: the other keys are its arguments."""
    for key, value in sorted(values.items(), key=lambda item: item[0] != 'type'):
        names = list(value) if isinstance(value, Mapping) else []
        if names and '_delete_' not in names and not any('.' in str(name) for name in names):  # as in custom_keys
            yield from _leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _number(key: str, value: Any, where: str) -> Any:
    setting = COMMON[key]
    try:
        return setting.read(value) if isinstance(value, str) else setting.check(value)
    except (ValueError, OverflowError):
        raise UserError(f'{where} {value}: {setting.allowed} is needed') from None


def _read(text: str, option: str) -> Any:
    try:
        return read_scalar(text)
    except ValueError as error:
        raise UserError(f'{option}={text}: {error}') from None
