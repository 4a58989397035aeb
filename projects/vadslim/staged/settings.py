"""From a staged config and the command line to the list of stages, each with its settings resolved.

What counts more: the command line, then the stage's entry, then the file, then what it extends, then the defaults. On
resume the checkpoint's config stands between the defaults and the file, for the resumed stage alone. A key of the
command line that begins with ``stages.NAME.`` is for that stage only. Plain data in and out; nothing is written, and a
config with sections needs neither torch nor MMEngine.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vadslim.cli import UserError

from .extends import STAGE_NAME, Source, read_config
from .python_config import PythonConfig
from .schema import Schema
from .sections import Sections, command_line
from .tasks import COMMON
from .yaml_files import read_scalar

KINDS = ('train', 'prune', 'sparse', 'test', 'analyse')
ENTRY_KEYS = ('name', 'kind', 'epochs', 'init_from', 'options')
#: ``init_from`` of a stage that starts anew, also after another
RANDOM = 'random'
BEST = 'checkpoint_best.pth'
# names that the predecessor gave to files: the stage, and the file in the stage's folder
_OLD_NAMES = (
    (re.compile(r'best_(?P<stage>.+?)(?:_model)?\.pth'), BEST),
    (re.compile(r'(?P<stage>.+)_epoch(?P<epoch>\d+)\.pth'), 'checkpoint_epoch{epoch}.pth'),
)


@dataclass(frozen=True)
class Stage:
    """One run.

    Args:
        name: of its folder too.
        kind: one of :data:`KINDS`.
        settings: all sections of the task's schema, ``task`` and ``seed``, or an MMEngine config; plain data.
        folder: where its files go, ``<save_dir>/<name>``.
        init_from: a checkpoint, or what :func:`initial_checkpoint` finds by it.
        init_given: ``init_from`` is the command line's.
        options: for the kind, as it names them.
        device: cuda or cpu; None: cuda if there is one.
        notes: lines that the user should read when it is trained.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    folder: Path
    init_from: str | None = None
    init_given: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """All stages of a config.

    Args:
        source: the file, for people.
        task: who turns settings into MMEngine configs; None: they are ones.
        stages: in order.
        notes: lines that the user should read.
    """

    source: str
    task: str | None
    stages: list[Stage]
    notes: list[str] = field(default_factory=list)

    def select(self, name: str | None = None, run_all: bool = False) -> list[Stage]:
        """The stages that the command line asks for; an only one need not be named.

        Raises:
            UserError: there is no such stage, or there are several and none is named.
        """
        names = ', '.join(stage.name for stage in self.stages)
        if run_all or (name is None and len(self.stages) == 1):
            return list(self.stages)
        if name is None:
            raise UserError(f'{self.source}: give --stage NAME or --run-all-stages; the stages are {names}')
        chosen = [stage for stage in self.stages if stage.name == name]
        if not chosen:
            raise UserError(f'--stage {name}: {self.source} has no such stage; the stages are {names}')
        return chosen


def resolve(
    path: str | Path | None,
    overrides: Mapping[str, Any] | None = None,
    resume_config: Mapping[str, Any] | None = None,
    resume_stage: str | None = None,
) -> Plan:
    """Resolve a config.

    Args:
        path: a YAML or Python file. None: the config of the checkpoint, whose stage is then the only one.
        overrides: dotted key -> value, or text as typed, as :func:`vadslim.staged.flags.overrides_of` gives them;
            ``init_from`` is one of the keys.
        resume_config: the config in a checkpoint: the settings of its stage as it was run.
        resume_stage: the checkpoint's stage; default: train.

    Raises:
        UserError: one line: where, which key, what is allowed.
    """
    if path is None and resume_config is None:
        raise UserError('a config is needed (--config FILE), or a checkpoint that holds one (--resume PATH)')
    saved = dict(resume_config or {})
    if isinstance(saved.get('work_dir'), str):  # the stage's folder, in that of the run
        saved['work_dir'] = str(Path(saved['work_dir']).parent)
    resumed = resume_stage or 'train'
    source = _saved_source(saved, resumed) if path is None else read_config(Path(path))
    stages = _stages(source, resumed if resume_config is not None else None)
    for key in ('stages', 'extends'):
        saved.pop(key, None)
    saved_sections = _has_sections(saved)
    has_sections = source.is_yaml or _has_sections(source.data) is True
    if path is None:
        has_sections = saved_sections is not False
    notes = []
    if saved_sections is not None and saved_sections != has_sections:
        notes.append(f'the config in the checkpoint is not of the kind of {source.name}, which alone counts')
        saved = {}
    content = Sections(source, saved.get('task'), ENTRY_KEYS) if has_sections else PythonConfig(source, ENTRY_KEYS)
    general, own = _by_stage(overrides or {}, stages)
    made = []
    for name, entry in stages.items():
        over = {**general, **own[name]}
        init_from = over.pop('init_from', None)
        init_from = None if init_from is None else str(init_from)
        options = {key: over.pop(key) for key in own[name] if key.split('.')[0] == 'options'}
        rest, head = _split_entry(entry, f'{source.where(f"stages.{name}")}: stages.{name}')
        _set_options(head, options, f'--set stages.{name}')
        settings, folder, device = _settings(content, name, rest, over, saved if name == resumed else {})
        head['init_from'] = init_from or head['init_from']
        lines = content.schedules.get(name, []) if isinstance(content, PythonConfig) else []
        made.append(
            Stage(
                name, settings=settings, folder=folder, init_given=bool(init_from), device=device, notes=lines, **head
            )
        )
    if isinstance(content, Sections):
        return Plan(source.name, content.task, made, notes + content.notes)
    return Plan(source.name, None, made, notes)


def initial_checkpoint(plan: Plan, stage: Stage, previous: str | Path | None = None) -> Path | None:
    """Find what a stage starts from: the command line's, else the previous stage's, else what its entry names.

    ``best_NAME.pth``, ``NAME_epochN.pth`` and ``NAME``, where no such file is there, are the best or that epoch's
    checkpoint in the folder of stage NAME; ``random`` is none at all.

    Args:
        plan: the stage's.
        stage: the one that starts.
        previous: the best checkpoint of the stage before it, if that ran just now (``--run-all-stages``).

    Returns:
        A file that is there; None: random weights.

    Raises:
        UserError: the file is missing; names where it was looked for.
    """
    name = stage.init_from
    if name == RANDOM:
        return None
    if previous is not None and not stage.init_given:
        return Path(previous)
    if name is None:
        return None
    literal = Path(name).expanduser()
    if literal.is_file():
        return literal
    wanted, file = _stage_file(literal.name)
    folders = {other.name: other.folder for other in plan.stages}
    if wanted is None and name in folders:
        wanted, file = name, BEST
    option = '--init_from' if stage.init_given else f'stages.{stage.name}: init_from'
    if wanted is None:
        raise UserError(f'{option} {name}: no such file')
    folder = folders.get(wanted, stage.folder.parent / wanted)
    found = folder / file
    if file == BEST and not found.is_file():  # nothing told which epoch was the best: what the stage ended with
        found = folder / _ended_with(folder)
    if not found.is_file():
        raise UserError(f'{option} {name}: no such file, and stage {wanted} has left no {found}; run it first')
    return found


def _ended_with(folder: Path) -> str:
    """The checkpoint of a stage that is whole."""
    try:
        result = json.loads((folder / 'done.json').read_text(encoding='utf-8'))['result']
        return str(result['checkpoint'] or BEST)
    except (OSError, ValueError, KeyError, TypeError):
        return BEST


def _stage_file(name: str) -> tuple[str | None, str]:
    """The stage that an old name of a file means, and the file's name in its folder."""
    for pattern, file in _OLD_NAMES:
        if found := pattern.fullmatch(name):
            return found['stage'], file.format(**found.groupdict())
    return None, ''


def _saved_source(saved: Mapping[str, Any], name: str) -> Source:
    """A source that says no more than the stage of a checkpoint: what its entry set is in the saved settings."""
    entries = saved.get('stages')
    entries = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    entry: Mapping[str, Any] = next((entry for entry in entries if entry.get('name') == name), {})
    head = {key: entry[key] for key in ('kind', 'init_from', 'options') if key in entry}
    return Source('the checkpoint', {'stages': {name: head}})


def _stages(source: Source, resumed: str | None) -> dict[str, Any]:
    """The entries by name; a config without any is one stage called train."""
    stages = source.data.get('stages') or {resumed or 'train': {}}
    names = ', '.join(stages)
    if resumed is not None and not STAGE_NAME.fullmatch(resumed):
        raise UserError(f'the checkpoint: its stage is {resumed!r:.60}, which is no name of a stage')
    if resumed is not None and resumed not in stages:
        raise UserError(f'{source.name}: has no stage {resumed}, which the checkpoint is of; the stages are {names}')
    if len({name.lower() for name in stages}) < len(stages):
        raise UserError(f'{source.name}: two stages differ in capitals only; the stages are {names}')
    return dict(stages)


def _has_sections(data: Mapping[str, Any]) -> bool | None:
    """Tell a config of a task from an MMEngine config; None: it says too little."""
    model = data.get('model')
    plain = isinstance(model, Mapping) and 'type' not in model
    if plain or 'task' in data or 'training' in data:
        return True
    return False if isinstance(model, Mapping) or 'train_cfg' in data or 'train_dataloader' in data else None


def _by_stage(
    overrides: Mapping[str, Any], stages: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The command line's values for all stages, and those for each."""
    general: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {name: {} for name in stages}
    for key, value in overrides.items():
        if not key.startswith('stages.'):
            general[key] = value
            continue
        _, name, *rest = key.split('.')
        if name not in own:
            near = difflib.get_close_matches(name, own, 1, 0.0)[0]
            raise UserError(f'--set {key}: there is no stage {name}; the nearest is {near}')
        if not rest:
            raise UserError(f'--set {key}: one setting of the stage is needed, such as {key}.training.lr')
        own[name]['training.epochs' if rest == ['epochs'] else '.'.join(rest)] = value
    return general, own


def _split_entry(entry: Any, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a stage's entry, and the checked rest."""
    kind, init_from, options = entry.get('kind', 'train'), entry.get('init_from'), entry.get('options') or {}
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1, 0.0)[0]
        raise UserError(f'{where}: kind is {kind!r:.60}; one of {", ".join(KINDS)} is needed; the nearest is {near}')
    if init_from is not None and (not isinstance(init_from, str) or not init_from):
        raise UserError(f'{where}: init_from is {init_from!r:.60}; the name of a checkpoint is needed, or null')
    if not isinstance(options, Mapping) or (options and kind == 'train'):
        raise UserError(f'{where}: options is {options!r:.60}; a mapping, for a stage that is not of kind train')
    head = {'kind': kind, 'init_from': init_from, 'options': dict(options)}
    return {key: value for key, value in entry.items() if key not in head}, head


def _set_options(head: dict[str, Any], over: Mapping[str, Any], where: str) -> None:
    """Put options of the command line over those of a stage's entry, in place."""
    for key, text in over.items():
        name, _, inner = key.partition('.')[2].replace('-', '_').partition('.')
        if head['kind'] == 'train':
            raise UserError(f'{where}.{key}: options are for a stage that is not of kind train')
        if not name:
            raise UserError(f'{where}.{key}: one option is needed, such as {where[6:]}.options.NAME=VALUE')
        try:
            value = read_scalar(text) if isinstance(text, str) else text
        except ValueError as error:
            raise UserError(f'{where}.{key}={text}: {error}') from None
        if inner:  # KEY=VALUE texts
            theirs = head['options'].get(name) or {}
            if not isinstance(theirs, Mapping):
                raise UserError(f'{where}.{key}: {name} is {theirs!r:.60}, which has no keys')
            value = {**theirs, key.split('.', 2)[2]: value}
        head['options'][name] = value


def _settings(
    content: Sections | PythonConfig,
    name: str,
    entry: Mapping[str, Any],
    over: dict[str, Any],
    saved: Mapping[str, Any],
) -> tuple[dict[str, Any], Path, str | None]:
    """A stage's settings, folder and device."""
    if isinstance(content, Sections):
        settings = content.stage(name, entry, over, saved)
        return settings, Path(settings['training']['save_dir']).expanduser() / name, settings['device']['type']
    here: dict[str, Any] = {key: over.pop(key) for key in ('training.save_dir', 'device.type') if key in over}
    checked = command_line(Schema({key: COMMON[key] for key in here}), here)
    settings = content.stage(name, entry, over, saved)
    save_dir = (
        checked.get('training.save_dir') or settings.get('work_dir') or f'work_dirs/{Path(content.source.name).stem}'
    )
    folder = Path(save_dir).expanduser() / name
    return {**settings, 'work_dir': str(folder)}, folder, checked.get('device.type')
