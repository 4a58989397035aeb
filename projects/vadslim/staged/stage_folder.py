"""A stage's config and its folder, whatever its kind."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from mmengine.config import Config

from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.slimming.training import LEAVES
from vadslim.staged.settings import Stage
from vadslim.stages import DONE, Step, open_step

CONFIG = 'config.py'  # of a stage, resolved: what other commands take
#: keys of a config on which no result depends
_NOT_RESULTS = ('work_dir', 'experiment_name', 'load_from', 'resume', 'visualizer', 'log_level', 'default_hooks',
                'env_cfg', 'stages')  # fmt: skip
#: task -> the module whose ``to_config(settings, stage)`` makes MMEngine configs of its settings
RECIPES = {'ink': 'vadslim.examples.ink.recipe'}


def stage_config(stage: Stage, source: Path | None = None) -> Config:
    """The MMEngine config of a stage that starts from a checkpoint."""
    task = stage.settings.get('task')
    if task is None:
        cfg = Config(stage.settings)
    else:
        recipe = import_module(RECIPES.get(task, task))
        entry = {'name': stage.name, 'init_from': str(source) if source else None, 'device': stage.device}
        cfg = Config(recipe.to_config(stage.settings, entry))
    cfg.work_dir = str(stage.folder)
    randomness = cfg.get('randomness') or {}
    cfg.randomness = {**randomness, 'seed': randomness.get('seed') or 0}  # a run without one could not be repeated
    return cfg


def open_folder(
    stage: Stage, cfg: Config, source: Path | None, overwrite: bool, more: dict | None = None, adopt: bool = False
) -> Step:
    """Open the stage's step; a folder in which nothing was finished is no loss, whatever its settings.

    Args:
        stage: whose folder it is.
        cfg: as :func:`stage_config` makes it.
        source: the checkpoint that the stage starts from.
        overwrite: clear what is of other settings.
        more: what the results depend on besides.
        adopt: go on with what is of other settings.
    """
    recipe = {key: value for key, value in cfg.to_dict().items() if key not in _NOT_RESULTS}
    saver = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    recipe['best'] = [saver.get(key) for key in ('save_best', 'rule')]
    inputs = {'init_from': source} if source else {}
    leaves = [*LEAVES, 'checkpoint_*.pth', 'structure.json', CONFIG, 'pictures', 'tensorboard', 'replaced_*']
    empty = stage.kind == 'train' and find_latest(stage.folder) is None and not (stage.folder / DONE).exists()
    name = f'stage {stage.name}'
    return open_step(stage.folder, name, {'config': recipe, **(more or {})}, inputs, overwrite or empty, leaves, adopt)
