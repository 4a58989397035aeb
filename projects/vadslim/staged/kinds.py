"""Stages that are not a training: vadslim's commands, each with the arguments that a stage's ``options`` become.

``options: {pruning_ratio: 0.3, keep_layers: [a=0, b=1], retrain: true, cfg_options: {a.b: 1}}`` is
``--pruning-ratio 0.3 --keep-layers a=0 b=1 --retrain --cfg-options a.b=1``.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vadslim.cli import UserError, is_user_error

Options = Mapping[str, Any]
METRICS = 'metrics.json'


@dataclass(frozen=True)
class Command:
    """One of vadslim's commands. Each works in a folder of its own in the stage's.

    Attributes:
        check: reads arguments as ``main`` does and raises what is wrong with them, as far as that needs no checkpoint.
        main: takes arguments, returns an exit code or raises what is wrong.
        arguments: (config, checkpoint, folder, options) -> arguments.
        leaves: (folder, options) -> the checkpoint that it has written there; None if it writes none.
        metrics: folder -> numbers for the table of stages.
        needs_checkpoint: whether it works on one.
        can_overwrite: whether it has ``--overwrite``.
        on_all_ranks: whether several processes share its work; else the first one does it.
    """

    check: Callable[[Sequence[str]], Any]
    main: Callable[[Sequence[str]], int]
    arguments: Callable[[Path, Path | None, Path, Options], list[str]]
    leaves: Callable[[Path, Options], Path | None] = lambda _folder, _options: None
    metrics: Callable[[Path], dict[str, float]] = lambda _: {}
    needs_checkpoint: bool = True
    can_overwrite: bool = False
    on_all_ranks: bool = True


def flags(options: Options) -> list[str]:
    """Options as arguments; true is a flag alone, false and null are left out, a mapping is KEY=VALUE texts."""
    found: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        found.append('--' + name.replace('_', '-'))
        if isinstance(value, Mapping):
            found += [f'{key}={item}' for key, item in value.items()]
        elif isinstance(value, list | tuple):
            found += map(str, value)
        elif value is not True:
            found.append(str(value))
    return found


def check_options(kind: str, cfg: Config, options: Options) -> None:
    """Let a command read what a stage is going to tell it, in a folder that is gone after it.

    Raises:
        UserError: an option, or the config with it, that the command does not take.
    """
    with tempfile.TemporaryDirectory() as name:
        config, checkpoint = Path(name, 'config.py'), Path(name, 'checkpoint.pth')
        config.write_text(cfg.pretty_text, encoding='utf-8')
        checkpoint.touch()
        command = COMMANDS[kind]
        try:
            command.check(command.arguments(config, checkpoint, Path(name), options))
        except Exception as error:
            if not is_user_error(error):
                raise
            raise UserError(str(error).replace(f'{name}/', '')) from error


def _check_prune(argv: Sequence[str]) -> None:
    from vadslim.slimming.options import parse
    from vadslim.slimming.scoring import build_pruner
    from vadslim.slimming.training import check_training

    options = parse(argv)
    build_pruner(options)
    check_training(options)


def _prune(argv: Sequence[str]) -> int:
    from vadslim.slimming import main

    return main(argv)


def _pruned(folder: Path, options: Options) -> Path | None:
    """What is left after pruning: of several levels the one that was chosen, the trained one if it was trained."""
    out = folder / 'pruned'
    name = (_read(out / 'done.json').get('result') or {}).get('result')  # of several levels
    if name is None and options.get('fine_tune'):
        name = f'{"retrained" if options.get("retrain") else "fine_tuned"}/latest.pth'
    file = out / (name or 'vad_structured_pruned.pth')
    return file if file.is_file() else None  # none after a dry run


def _check_sparse(argv: Sequence[str]) -> None:
    from vadslim.sparse_training.cli import parse
    from vadslim.sparse_training.recipe import load_recipe

    given = parse(argv)
    load_recipe(given.config, vars(given), given.cfg_options)


def _sparse(argv: Sequence[str]) -> int:
    from vadslim.sparse_training.cli import main

    return main(argv)


def _sparse_arguments(config: Path, source: Path | None, folder: Path, options: Options) -> list[str]:
    starts = {'pretrained', 'init'} & set(options)
    given = ['--pretrained', str(source)] if source is not None and not starts else []
    return [str(config), '--save_dir', str(folder / 'levels'), *given, *flags(options)]


def _levels(folder: Path) -> dict[str, Any]:
    """The last level's entry in ``results.json``."""
    entries = _read(folder / 'levels' / 'results.json').get('levels') or [{}]
    return dict(entries[-1])


def _last_level(folder: Path, options: Options) -> Path | None:
    """The last level's best network; without what is dead in it if that was asked for, and there was any."""
    level = folder / 'levels' / f'level_{_levels(folder).get("level")}'
    names = ['slim/slim.pth', 'best.pth'] if options.get('slim') else ['best.pth']
    return next((level / name for name in names if (level / name).is_file()), None)


def _check_test(argv: Sequence[str]) -> None:
    from vadslim.evaluate import parse_args, read_config

    read_config(parse_args(argv))


def _test(argv: Sequence[str]) -> int:
    from vadslim.cli import run
    from vadslim.evaluate import main

    return run(main, argv)


def _test_arguments(config: Path, source: Path | None, folder: Path, options: Options) -> list[str]:
    out = folder / 'test'
    out.mkdir(exist_ok=True)
    given = [] if {'out', 'format_only'} & set(options) else ['--out', str(out / METRICS)]
    name = ['--cfg-options', f'experiment_name={folder.name}_{time.time_ns()}']  # a name belongs to one Runner only
    return [str(config), str(source), '--work-dir', str(out), *given, *flags(options), *name]


def _check_analyse(argv: Sequence[str]) -> None:
    from vadslim.model_analysis import parse

    parse(argv)


def _analyse(argv: Sequence[str]) -> int:
    from vadslim.model_analysis import main

    return main(argv)


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none."""
    content = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None
    return content if isinstance(content, dict) else {}


COMMANDS: dict[str, Command] = {
    'prune': Command(
        _check_prune,
        _prune,
        lambda config, source, folder, options: [
            *(str(config), str(source), '--output-dir', str(folder / 'pruned')),
            *flags(options),
        ],
        _pruned,
        can_overwrite=True,
    ),
    'sparse': Command(
        _check_sparse,
        _sparse,
        _sparse_arguments,
        _last_level,
        lambda folder: {key: _levels(folder)[key] for key in ('remain_weight', 'val', 'test')},
        needs_checkpoint=False,
        can_overwrite=True,
    ),
    'test': Command(
        _check_test,
        _test,
        _test_arguments,
        metrics=lambda folder: _read(folder / 'test' / METRICS),
    ),
    'analyse': Command(
        _check_analyse,
        _analyse,
        lambda _config, source, folder, options: [
            *('--model_path', str(source), '--output_dir', str(folder / 'analysis'), '--quiet'),
            *flags(options),
        ],
        on_all_ranks=False,
    ),
}
