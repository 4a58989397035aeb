"""One level: masks from what the level before left, a training under them, and what the network is worth then."""

from __future__ import annotations

import copy
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from vadslim.analysis.sparse_summary import LATER
from vadslim.checkpoint import load_checkpoint
from vadslim.checkpoint_format import write_checkpoint
from vadslim.cli import UserError, say
from vadslim.experiment import add_hooks, build_runner, weights_of, write_text
from vadslim.hooks import LevelHook
from vadslim.hooks.checkpoint_hook import find_latest
from vadslim.hooks.level_hook import STAGE
from vadslim.hooks.transfer import differences, shorten
from vadslim.launch import adapt_to_device, on_rank_0
from vadslim.registry import MODELS
from vadslim.slimming.batches import loss_batches
from vadslim.sparse import cases, dense_masks, densities, load_masks, remain_weight, save_masks, start, with_companions
from vadslim.sparse_training.pruning import Pruned, classifier, heads_left, next_masks, prunable
from vadslim.sparse_training.settings import Settings
from vadslim.sparse_training.start import initial_weights, rewound
from vadslim.stages import Step, open_step

INIT, MASKS, MODEL, BEST, REPORT = 'init.pth', 'masks.pth', 'model.pth', 'best.pth', 'pruning.txt'
TRAINING = 'training'
METRIC = 'accuracy/top1'


@dataclass(frozen=True)
class Run:
    """What all levels of a run share.

    Attributes:
        cfg: of the dense network.
        settings: of the run.
        folder: of the run.
        dense: folder of level 0.
        launcher: who started the processes, 'none' for one.
        inputs: files that level 0 starts from: ``init``, ``pretrained``.
        overwrite: replace levels of other settings.
        slim: write structured levels as smaller networks, too.
        title: name of the run; the folder's if there is none.
    """

    cfg: Config
    settings: Settings
    folder: Path
    dense: Path
    launcher: str = 'none'
    inputs: Mapping[str, Path] | None = None
    overwrite: bool = False
    slim: bool = False
    title: str = ''

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.title or self.folder.absolute().name

    def level_folder(self, number: int) -> Path:
        """Where a level's files are."""
        return self.folder / f'level_{number}' if number else self.dense


def run_level(run: Run, number: int, step: Step) -> dict[str, Any]:
    """Train a level and rate it; an interrupted one goes on.

    Args:
        run: what all levels share.
        number: of the level; 0 is the dense one.
        step: from ``open_level``.

    Returns:
        The level's entry of ``results.json``.
    """
    begun = time.monotonic()
    pruned = on_rank_0(lambda: _prepare(run, number, step.folder))
    say(
        f'level {number} of {run.settings.pruning_times - 1}: {remain_weight(pruned.refill):.2f} % of the weights '
        f'({run.settings.epochs} epochs in {step.folder})'
    )
    cfg = level_config(run, number, step.folder, pruned)
    result = _train(run, cfg, step.folder, pruned)
    result = {'level': number, **result, 'struct_head': pruned.heads}
    if is_main_process():
        result['size'] = _size(run, number, step.folder)
        result['seconds'] = round(time.monotonic() - begun, 1)
        names = [MASKS, MODEL, BEST, *([INIT] if number == 0 else [])]
        step.finish(names, result, time.monotonic() - begun)
    return on_rank_0(lambda: result)


def open_level(run: Run, number: int) -> Step:
    """The step of a level, whole or to be done; its recipe is all that its numbers depend on.

    Raises:
        UserError: its folder holds other settings' results.
    """
    settings = run.settings.to_dict()
    settings.pop('pruning_times')  # more levels can be added
    if number == 0:
        # what comes later does not count: runs of several methods can share this level
        settings = {name: value for name, value in settings.items() if name not in LATER}
        if run.settings.prune_type == 'rewind_lt':
            settings['rewind_epoch'] = run.settings.rewind_to
    cfg = run.cfg.to_dict()
    parts = ('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'optim_wrapper', 'param_scheduler')
    recipe = {'level': number, 'settings': settings, **{name: cfg.get(name) for name in parts}}
    recipe['hooks'] = cfg.get('custom_hooks')
    inputs = dict(run.inputs or {})
    if number:
        before = run.level_folder(number - 1)
        inputs = {'model': before / MODEL, 'init': _rewind_file(run)}
        if number > 1:
            inputs['masks'] = before / MASKS
        if run.settings.distill:
            inputs['teacher'] = run.dense / BEST
    leaves = [MASKS, MODEL, BEST, INIT, REPORT, TRAINING, 'slim']
    return open_step(run.level_folder(number), f'level {number}', recipe, inputs, run.overwrite, leaves)


def _rewind_file(run: Run) -> Path:
    if run.settings.prune_type == 'rewind_lt':
        return run.dense / TRAINING / 'rewind.pth'
    return run.dense / INIT


def build(cfg: Config) -> nn.Module:
    """The network of a config with the random weights of its seed."""
    set_random_seed(cfg.randomness.seed)
    model = MODELS.build(copy.deepcopy(cfg.model))
    if hasattr(model, 'init_weights'):
        with mock.patch.object(model, '_dump_init_info', lambda: None, create=True):  # a line per parameter
            model.init_weights()
    return model


def _prepare(run: Run, number: int, folder: Path) -> Pruned:
    """Masks and weights of the level's start, as files; those of an interrupted attempt are the same."""
    model = build(run.cfg)
    work = folder / TRAINING
    work.mkdir(exist_ok=True)
    if number == 0:
        weights = prunable(model, run.settings)
        masks = dense_masks(weights)
        pruned = Pruned(masks, masks, heads=heads_left(model, weights, masks))
        state = initial_weights(model, run.inputs or {})
        _write(run, {'state_dict': state, 'meta': {'epoch': 0, 'seed': run.settings.seed}}, folder / INIT)
        _store(run, folder, pruned, pruned.current, pruned.refill, state)
        return pruned
    before = run.level_folder(number - 1)
    load(model, before / MODEL)
    # what is prunable is this run's to say, level 0 may be another's
    masks = load_masks(before / MASKS)[1] if number > 1 else dense_masks(prunable(model, run.settings))
    model.eval()
    batches = loss_batches(run.cfg, run.settings.criteria_batches, run.settings.seed, shared=False)
    pruned = next_masks(model, masks, run.settings, number, batches)
    if pruned.report:
        print('\n'.join(pruned.report), flush=True)
        write_text(folder / REPORT, '\n'.join(pruned.report) + '\n')
    held = pruned.current, pruned.refill
    if run.settings.struct != 'imp':
        from vadslim.analysis import find_example

        example = find_example(model, run.cfg, small=True)
        if example is not None:
            held = tuple(with_companions(model, masks, example.run) for masks in held)  # type: ignore[assignment]
    state = rewound(build(run.cfg), load_checkpoint(_rewind_file(run))['state_dict'], run.settings.prune_type)
    weights = {name: state[name] for name in held[0]}
    state |= start(weights, cases(*held))
    _store(run, folder, pruned, *held, state)
    return pruned


def _store(
    run: Run, folder: Path, pruned: Pruned, current: Mapping, refill: Mapping, state: Mapping[str, Tensor]
) -> None:
    """The files of the level's start: those that the training reads hold the companions' masks as well."""
    save_masks(folder / TRAINING / MASKS, current, refill)
    _write(run, {'state_dict': dict(state), 'meta': {'epoch': 0}}, folder / TRAINING / 'start.pth')
    save_masks(folder / MASKS, pruned.current, pruned.refill)


def load(model: nn.Module, path: Path) -> dict[str, Any]:
    """Give a network the weights of a checkpoint; returns what the file holds.

    Raises:
        UserError: they are of another network.
    """
    content = load_checkpoint(path)
    state = weights_of(content, path)
    if problems := differences(model, state):
        raise UserError(f'{path}: is not of this {type(model).__name__}: {shorten(problems)}')
    model.load_state_dict(state)
    return content


def level_config(run: Run, number: int, folder: Path, pruned: Pruned) -> Config:
    """The config of the level's training."""
    cfg, settings = copy.deepcopy(run.cfg), run.settings
    work = folder / TRAINING
    hooks = list(cfg.get('custom_hooks') or [])
    sparse = {
        'type': 'vadslim.SparseHook',
        'masks': str(work / MASKS),
        'schedule': settings.RST_schedule,
        **_lambda(cfg, settings),
        'exponents': settings.exponents,
        'reg_mode': settings.reg_mode,
        'block_loss_grad': settings.block_loss_grad,
        'target': settings.target_accuracy,
        'metric': METRIC,
    }
    scalars = {'remain_weight': remain_weight(pruned.refill), 'remain_weight_element': 100 * pruned.element}
    if pruned.heads is not None:
        scalars['struct_head'] = pruned.heads
    level: dict[str, Any] = {'type': 'vadslim.LevelHook', 'metric': METRIC, 'scalars': scalars}
    if number == 0 and settings.prune_type == 'rewind_lt':
        level['rewind_epoch'] = settings.rewind_to
    cfg.custom_hooks = [*hooks, sparse, level]
    if number and settings.distill:
        cfg.custom_hooks = [*cfg.custom_hooks, _teacher(run)]
    add_hooks(cfg)
    cfg.default_hooks['checkpoint'].update(by_epoch=True, interval=1, save_last=True, max_keep_ckpts=1)
    cfg.work_dir = str(work)
    latest = find_latest(work)
    cfg.load_from, cfg.resume = str(latest or work / 'start.pth'), latest is not None
    _name(cfg, run, number)
    return cfg


def _lambda(cfg: Config, settings: Settings) -> dict[str, float]:
    """What lambda grows to, and its ceiling. Optimizers that shrink weights by lr * lambda take both times 1 / lr."""
    optimizer = cfg.optim_wrapper.optimizer
    unit = 1.0 if str(optimizer.type) == 'SGD' or settings.reg_mode == 'upstream' else 1 / float(optimizer.lr)
    return {'granularity': unit * settings.reg_granularity_prune, 'ceiling': unit * settings.reg_ceiling}


def _teacher(run: Run) -> dict[str, Any]:
    """Level 0 teaches: alpha CE + (1 - alpha) T^2 KL (Hinton et al., 2015), the KL a mean over images."""
    settings = run.settings
    loss = {
        'module': classifier(build(run.cfg)),
        'kind': 'kl',
        'weight': 1 - settings.alpha,
        'temperature': settings.temperature,
    }
    teacher = {'checkpoint': str(run.dense / BEST)}
    return {'type': 'vadslim.DistillHook', 'teacher': teacher, 'losses': [loss], 'own': settings.alpha}


def _name(cfg: Config, run: Run, number: int) -> None:
    """Names belong to one Runner only; WandB's curves of all levels are one run."""
    name = run.name
    cfg.experiment_name = f'{name}_level_{number}_{time.time_ns()}'
    for backend in (cfg.get('visualizer') or {}).get('vis_backends') or ():
        if str(backend.get('type')).endswith('WandbVisBackend'):
            own = {'project': 'RSST', 'name': name, 'group': name, 'config': run.settings.to_dict()}
            own['id'] = f'{zlib.crc32(str(run.folder.absolute()).encode()):08x}'
            own.update(resume='allow', mode=os.environ.get('WANDB_MODE', 'offline'))
            backend.init_kwargs = {**own, **(backend.get('init_kwargs') or {})}


def _train(run: Run, cfg: Config, folder: Path, pruned: Pruned) -> dict[str, Any]:
    """Train; then test the network as it is and as it was after its best epoch."""
    adapt_to_device(cfg, run.launcher)
    runner = build_runner(cfg, folder.name)
    runner.train()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    hook = next(hook for hook in runner._hooks if isinstance(hook, LevelHook))
    best = folder / TRAINING / f'best_epoch_{hook.best}.pth'
    val = next(row['val'] for row in hook.history if row['epoch'] == hook.best)
    tested = {}
    for name, source in ((MODEL, None), (BEST, best)):
        if source is not None:
            load(model, source)
        # by the loop alone: runner.test() would set up and close again what the training has set up and closed
        tested[name] = float(runner.test_loop.run()[METRIC])
        if is_main_process():
            meta = {'epoch': hook.best if source else runner.epoch, 'test': tested[name]}
            _save(model, folder / name, run, pruned, meta, val)
    return {
        'remain_weight': remain_weight(pruned.refill),
        'remain_weight_element': 100 * pruned.element,
        'density': densities(pruned.refill),
        'best_epoch': hook.best,
        'val': val,
        'test': tested[BEST],
        'test_last': tested[MODEL],
        'history': hook.history,
    }


def _save(model: nn.Module, path: Path, run: Run, pruned: Pruned, meta: dict[str, Any], val: float) -> None:
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    masks = {name: mask.cpu() for name, mask in pruned.refill.items()}
    _write(run, {'state_dict': state, 'masks': masks, 'meta': meta}, path, metric=val, metric_name=METRIC)


def _write(run: Run, content: Mapping[str, Any], path: Path, **labels: Any) -> None:
    write_checkpoint(content, path, config=run.cfg.to_dict(), stage=STAGE, **labels)


def _size(run: Run, number: int, folder: Path) -> dict[str, int] | None:
    """What is left when the dead units are removed for real; None of element-wise masks."""
    if number == 0 or run.settings.struct == 'imp':
        return None
    from vadslim.sparse_training.metal import slim_size

    return slim_size(run.cfg, folder / BEST)
