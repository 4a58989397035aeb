"""What runs of sparse training came to, as plain data: ours, and the predecessor's.

A run is a folder. Ours holds ``results.json``; the predecessor's (``main_imp_fillback.py`` of the RSST code) holds
``<state>checkpoint.pth.tar`` and ``<state>model_SA_best.pth.tar``, whose states are our levels: 0 is dense. All numbers
are percents unless said otherwise; what a file does not tell is None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadslim.checkpoint import CheckpointError, load_checkpoint
from vadslim.cli import UserError

RESULTS = 'results.json'
#: The predecessor's files: the first has the whole history of a state, the second that up to its best epoch.
STATE_FILE = re.compile(r'(\d+)(checkpoint|model_SA_best)\.pth\.tar')
VIT_LAYER = re.compile(r'(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.weight$')
MASKS, ZEROS = 'masks', 'zeros of plain weights'


@dataclass(frozen=True)
class Epoch:
    """One epoch of training; ``loss`` is a mean, ``reg_lambda`` RSST's factor at the epoch's end."""

    epoch: int
    val: float | None = None
    loss: float | None = None
    lr: float | None = None
    reg_lambda: float | None = None


@dataclass(frozen=True)
class SparseLevel:
    """One level: a network trained under masks.

    Attributes:
        level: 0 is the dense one.
        remain: weights that are left, of the prunable ones.
        remain_element: the same of the element-wise masks that the structured ones came from.
        density: layer's weight -> fraction that is left.
        counted: what ``remain`` and ``density`` were counted from: MASKS or ZEROS.
        best_epoch: the one with the best validation accuracy, counted from 1.
        val, test: top-1 accuracy after it.
        test_last: top-1 accuracy after the last epoch.
        epochs: what is known of each.
        size: ``params``, ``macs``, ``params_slim``, ``macs_slim``: dense, and with what the masks let go removed.
        struct_head: attention heads that are left.
        seconds: that the level took.
    """

    level: int
    remain: float | None
    remain_element: float | None = None
    density: Mapping[str, float] = field(default_factory=dict)
    counted: str = MASKS
    best_epoch: int | None = None
    val: float | None = None
    test: float | None = None
    test_last: float | None = None
    epochs: Sequence[Epoch] = ()
    size: Mapping[str, float] = field(default_factory=dict)
    struct_head: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class SparseRun:
    """One run.

    Attributes:
        path: its folder, or the file that was named.
        name: what it is called.
        settings: as the run wrote them; of the predecessor's, only what its folder's name tells.
        levels: those done, by number.
        problems: a line for each file of it that could not be read.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    levels: Sequence[SparseLevel]
    problems: Sequence[str] = ()

    @property
    def dense(self) -> SparseLevel | None:
        """Level 0, if it is done."""
        return self.levels[0] if self.levels and self.levels[0].level == 0 else None


def collect(paths: Iterable[str | Path], seen: Callable[[Path], None] = lambda path: None) -> list[SparseRun]:
    """Read runs.

    Args:
        paths: a run's folder, one of its files, or a folder that holds runs at any depth.
        seen: called with each run's folder or file before it is read; the predecessor's take seconds.

    Returns:
        Each run once, in the order of the paths. A file that is damaged or foreign is one of ``problems``, and
        what else there is of the run is read.

    Raises:
        UserError: a path that is not there, or that holds no run.
    """
    runs: dict[Path, SparseRun] = {}
    for path in map(Path, paths):
        for place in find_runs(path):
            if place.resolve() not in runs:
                seen(place)
                runs[place.resolve()] = read_run(place)
    return list(runs.values())


def find_runs(path: Path) -> list[Path]:
    """The runs at a path: itself, or the folders of runs below it by name; folders inside a run belong to it."""
    if not path.exists():
        raise UserError(f'{path}: no such file or folder')
    if path.is_file():
        if path.name == RESULTS:
            return [path.parent]
        if path.name.endswith(('.pth.tar', '.pth')):
            return [path]
        raise UserError(f'{path}: neither {RESULTS} nor <state>checkpoint.pth.tar nor <state>model_SA_best.pth.tar')
    found: list[Path] = []
    folders = [path]
    while folders:
        folder = folders.pop(0)
        try:
            inside = sorted(folder.iterdir())
        except OSError as error:
            raise UserError(f'{folder}: cannot be read: {error.strerror}') from error
        if any(file.name == RESULTS or STATE_FILE.fullmatch(file.name) for file in inside):
            found.append(folder)
        else:
            folders[:0] = [one for one in inside if one.is_dir() and not one.is_symlink()]
    if not found:
        raise UserError(
            f'{path}: holds no run: no {RESULTS}, no <state>checkpoint.pth.tar or <state>model_SA_best.pth.tar'
        )
    return found


def read_run(path: Path) -> SparseRun:
    """Read one run, a folder or a file of the predecessor's; what cannot be read is one of its problems."""
    if (path / RESULTS).exists():
        try:
            return read_results(path / RESULTS)
        except UserError as error:
            return SparseRun(path, path.name, {}, (), (str(error),))
    return read_predecessor(path)


# --- our format ---------------------------------------------------------------------------------------------


def read_results(file: Path) -> SparseRun:
    """Read ``results.json``.

    Raises:
        UserError: it cannot be read, is no such file, or is of another format.
    """
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{file}: cannot be read: {error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{file}: is truncated, or not JSON: {error}') from error
    try:
        if found['format'] != 1:
            raise UserError(f'{file}: is of format {found["format"]!r}; this version of vadslim reads 1')
        settings = {str(name): value for name, value in dict(found['settings']).items()}
        levels = sorted(map(_level, found['levels']), key=lambda level: level.level)
        if len({level.level for level in levels}) < len(levels):
            raise ValueError('two levels have one number')
        name = found.get('name') or file.parent.resolve().name
        return SparseRun(file.parent, str(name), settings, levels)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f'{error} is missing' if isinstance(error, KeyError) else str(error)
        raise UserError(f'{file}: is not the results of sparse training: {what}') from error


def _level(found: Any) -> SparseLevel:
    names = {name: name for name in ('val', 'test', 'test_last', 'struct_head', 'seconds')}
    names |= {'remain': 'remain_weight', 'remain_element': 'remain_weight_element'}
    numbers: dict[str, Any] = {ours: number(found.get(name)) for ours, name in names.items()}
    size = {name: value for name in found.get('size') or {} if (value := number(found['size'][name])) is not None}
    density = {name: number(value) for name, value in (found.get('density') or {}).items()}
    known = {name: value for name, value in density.items() if value is not None}
    best = number(found.get('best_epoch'))
    epochs = [_epoch(entry, place) for place, entry in enumerate(found.get('history') or (), 1)]
    level = int(found['level'])
    numbers |= {'density': known, 'best_epoch': None if best is None else int(best), 'epochs': epochs, 'size': size}
    return SparseLevel(level, **numbers)


def _epoch(found: Any, place: int) -> Epoch:
    numbers = {name: number(found.get(name)) for name in ('val', 'loss', 'lr', 'reg_lambda')}
    return Epoch(int(found.get('epoch') or place), **numbers)


def number(value: Any) -> float | None:
    """A finite number of what files hold: Python's, NumPy's, tensors of one value; else None."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


# --- the predecessor's format -------------------------------------------------------------------------------


def read_predecessor(path: Path) -> SparseRun:
    """Read the files of one run of the predecessor, or one such file.

    Of a state the file with the longer history counts; the other is read if that one cannot be.
    """
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if STATE_FILE.fullmatch(file.name))
    by_state: dict[int, list[Path]] = {}
    for file in sorted(files, key=lambda file: 'model_SA_best' in file.name):
        named = STATE_FILE.fullmatch(file.name)
        by_state.setdefault(int(named[1]) if named else -1, []).append(file)
    levels: dict[int, SparseLevel] = {}
    problems = []
    for state in sorted(by_state):
        for file in by_state[state]:
            try:
                level = read_state(file)
                if level.level in levels:
                    raise UserError(f'{file}: is of state {level.level}, as another file is')
                levels[level.level] = level
                break
            except UserError as error:
                problems.append(str(error))
    folder = (path.parent if path.is_file() else path).resolve().name
    name = f'{folder}/{path.name}' if path.is_file() else folder
    return SparseRun(path, name, settings_of_name(folder), [levels[state] for state in sorted(levels)], problems)


def read_state(file: Path) -> SparseLevel:
    """Read one checkpoint of the predecessor; nothing in it is run.

    Raises:
        UserError: it cannot be read safely, or is no such checkpoint.
    """
    try:
        found = load_checkpoint(file)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    weights, result = found.get('state_dict'), found.get('result')
    if not isinstance(weights, dict) or not isinstance(result, dict):
        lacks = ' nor '.join(key for key in ('state_dict', 'result') if not isinstance(found.get(key), dict))
        raise UserError(f'{file}: is not a checkpoint of main_imp_fillback.py: has no {lacks}')
    val, test = (_curve(result.get(key)) for key in ('ta', 'test_ta'))
    named = STATE_FILE.fullmatch(file.name)
    state = number(found['state'] if 'state' in found else named and named[1])
    if state is None:
        raise UserError(f'{file}: is not a checkpoint of main_imp_fillback.py: tells no state')
    known = [value for value in val if value is not None]
    best = val.index(max(known)) if known else None
    density, remain, counted = density_of(weights)
    first = 1 + max(int(number(found.get('epoch')) or 0) - len(val), 0)  # a resumed state has lost the epochs before
    return SparseLevel(
        int(state),
        remain,
        density=density,
        counted=counted,
        best_epoch=None if best is None else first + best,
        val=None if best is None else val[best],
        test=test[best] if best is not None and best < len(test) else None,
        test_last=test[-1] if test and 'model_SA_best' not in file.name else None,
        epochs=[Epoch(place, value) for place, value in enumerate(val, first)],
    )


def _curve(values: Any) -> list[float | None]:
    if isinstance(values, Tensor):
        values = values.flatten().tolist()
    return [number(value) for value in values] if isinstance(values, list | tuple) else []


def density_of(weights: Mapping[str, Any]) -> tuple[dict[str, float], float | None, str]:
    """What is left of the prunable weights.

    Where there are masks (``weight_mask`` beside ``weight_orig``, whose masked entries are not zero) they count.
    A file without any was trained without (the dense state; the predecessor's RSST, which measures the dense
    network): zeros are counted of the weights that the predecessor prunes, all convolutions but ``conv1``, or the
    linear layers of a ViT's blocks.

    Args:
        weights: the state dict.

    Returns:
        Layer's weight -> fraction that is left, percent of all that is left (None: no such layer), MASKS or ZEROS.
    """
    tensors = {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}
    end, counted = '.weight_mask', MASKS
    masks = {name.removesuffix('_mask'): mask for name, mask in tensors.items() if name.endswith(end)}
    if not masks:
        counted, is_vit = ZEROS, any(VIT_LAYER.search(name) for name in tensors)
        for name, weight in tensors.items():
            plain = VIT_LAYER.search(name) if is_vit else name.endswith('.weight') and name != 'conv1.weight'
            if plain and weight.dim() == (2 if is_vit else 4):
                masks[name] = weight
    left = {name: int(torch.count_nonzero(mask)) for name, mask in masks.items()}
    total = sum(mask.numel() for mask in masks.values())
    density = {name: left[name] / mask.numel() for name, mask in masks.items() if mask.numel()}
    return density, 100 * sum(left.values()) / total if total else None, counted


#: Words of folder names such as cifar100_rsst_output_resnet20_l1_exp_custom_exponents4; longer ones first.
_WORDS = {
    'dataset': ('tiny-imagenet', 'tiny_imagenet', 'cifar100', 'cifar10', 'imagenet', 'digits'),
    'struct': ('refill', 'rsst', 'imp'),
    'arch': ('sparseresnet20', 'resnet20', 'mobilenet', 'vgg16_bn', 'vit_tiny', 'vit_small', 'vit_base')
    + ('res20s', 'res56s', 'res18', 'res50'),
    'criteria': ('remain', 'magnitude', 'saliency', 'l1', 'l2'),
}


def settings_of_name(name: str) -> dict[str, Any]:
    """What the name of a folder tells of the settings: the predecessor's files tell none.

    ``folder`` is the name without a seed in it: runs of two such names are never taken for runs of the same settings.
    """
    found: dict[str, Any] = {'folder': re.sub(r'(?i)[_-]?(?<![a-z])seed[_-]?\d+', '', name)}
    for key, words in _WORDS.items():
        hit = re.search(rf'(?<![a-z0-9])({"|".join(words)})(?![a-z0-9])', name.lower())
        if hit:
            found[key] = hit[1]
    seed = re.search(r'(?<![a-z])seed[_-]?(\d+)(?!\d)', name.lower())
    return {**found, 'seed': int(seed[1])} if seed else found
