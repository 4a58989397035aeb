"""The settings of sparse training: the command's flags, under the names that RSST's public code gave them.

A recipe's ``sparse = dict(...)`` has the same names. A flag counts more than the recipe, the recipe more than what
stands here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from vadslim.cli import Parser, UserError, add_config_options, add_machine_options, at_least
from vadslim.sparse import SCHEDULES, SCOPES

STRUCTS = ('imp', 'refill', 'rsst')
CRITERIA = ('remain', 'magnitude', 'l1', 'l2', 'saliency', 'hessian')
PRUNE_TYPES = ('lt', 'pt', 'pt_trans', 'rewind_lt')
BACKENDS = {'local': 'LocalVisBackend', 'tensorboard': 'TensorboardVisBackend', 'wandb': 'WandbVisBackend'}
EPOCHS, WARMUP, MILESTONES, REWIND = 120, 20, (91, 136), 24
#: settings that count epochs, and go with the number of all
EPOCH_COUNTS = ('warmup', 'decreasing_lr', 'rewind_epoch')


@dataclass(frozen=True)
class Settings:
    """What a run is, apart from where it runs and what its folder is.

    Attributes are the flags; ``main_imp_fillback.py --help`` says what each does. None is what ``--help`` says in
    brackets.
    """

    arch: str = 'res20s'
    dataset: str = 'cifar100'
    struct: str = 'rsst'
    pruning_times: int = 20
    rate: float = 0.2
    scope: str = 'global'
    progressive_rate: bool = False
    layer_rates: Mapping[str, float] | None = None
    conv1: bool = False
    fc: bool = False
    criteria: str = 'l1'
    criteria_batches: int = 4
    fillback_rate: float = 0.0
    prune_type: str = 'lt'
    rewind_epoch: int | None = None
    RST_schedule: str = 'exp_custom_exponents'
    reg_granularity_prune: float = 1.0
    reg_ceiling: float = 1.0
    exponents: float = 4
    reg_mode: str = 'progress'
    block_loss_grad: bool = False
    target_accuracy: float | None = None
    vit_structured: bool = False
    vit_prune_target: str = 'head'
    mlp_prune_ratio: float | None = None
    sorting_mode: str = 'layer-wise'
    epochs: int = EPOCHS
    lr: float = 0.01
    warmup: int | None = None
    decreasing_lr: Sequence[int] | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    optimizer: str = 'sgd'
    batch_size: int | None = None
    accumulate: int = 1
    amp: bool = False
    distill: bool = False
    alpha: float = 0.5
    temperature: float = 3.0
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f'{name} {getattr(self, name)!r}: choose from {", ".join(choices)}')
        for name, (low, high, text) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f'{name} {value}: {text}')
        if self.prune_type == 'rewind_lt' and self.rewind_to >= self.epochs:
            raise UserError(
                f'rewind_epoch {self.rewind_to}: rewind_lt goes back to the start of that epoch, counted from 0, '
                f'of level 0, which has {self.epochs}; name one from 0 to {self.epochs - 1}'
            )
        if self.vit_structured and self.struct == 'imp':
            raise UserError('vit_structured: heads and neurons are regrouped by refill and rsst; imp prunes elements')
        if self.layer_rates and self.scope == 'global':
            raise UserError('layer_rates: a global threshold has one rate; add --scope layer-wise or filter-wise')

    @property
    def warmup_epochs(self) -> int:
        """As set, or 20 of 120 epochs."""
        return round(self.epochs * WARMUP / EPOCHS) if self.warmup is None else self.warmup

    @property
    def milestones(self) -> list[int]:
        """As set, or 91 and 136 of 120 epochs (the second never comes)."""
        scaled = [round(self.epochs * epoch / EPOCHS) for epoch in MILESTONES]
        return scaled if self.decreasing_lr is None else list(self.decreasing_lr)

    @property
    def rewind_to(self) -> int:
        """As set, or 24 of 120 epochs."""
        return round(self.epochs * REWIND / EPOCHS) if self.rewind_epoch is None else self.rewind_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> Settings:
        """Settings of a recipe and flags, the later ones over the earlier ones.

        Raises:
            UserError: a name or value that is none.
        """
        values: dict[str, Any] = {}
        known, hints = {field.name for field in fields(cls)}, get_type_hints(cls)
        for layer in layers:
            if unknown := sorted(set(layer) - known):
                raise UserError(f'sparse: {unknown[0]!r} is no setting; there are {", ".join(sorted(known))}')
            for name, value in layer.items():
                _check_type(name, value, hints[name])
            values = {**_in_proportion(values, layer), **layer}
        if values.get('struct') == 'imp' and layers and 'vit_structured' not in layers[-1]:
            values['vit_structured'] = False  # of a recipe for another method
        return replace(cls(), **values) if values else cls()


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise a UserError unless a recipe's value is of a setting's type; the word 'False' is no bool, and true."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return
    kind = get_origin(kinds[0]) or kinds[0]
    parts: Iterable[Any] = [value]
    if kind in (Sequence, Mapping):
        fits = isinstance(value, list | tuple if kind is Sequence else Mapping)
        parts = (value.values() if kind is Mapping else value) if fits else [None]
    types, needed = _KINDS[kind]
    if any(not isinstance(part, types) or (isinstance(part, bool) and kind is not bool) for part in parts):
        raise UserError(f'sparse: {name} {value!r}: {needed} is needed')


_KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, 'True or False'),
    int: (int, 'a whole number'),
    float: (int | float, 'a number'),
    str: (str, 'a text'),
    Sequence: (int, 'a list of epochs'),
    Mapping: (int | float, 'a dict of patterns and factors'),
}


def _in_proportion(values: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's counts of epochs, where a flag changes the number of all."""
    scaled = dict(values)
    if 'epochs' in layer and values.get('epochs', 0) > 0:
        factor = layer['epochs'] / values['epochs']
        for name in EPOCH_COUNTS:
            value = values.get(name)
            if isinstance(value, int):
                scaled[name] = round(value * factor)
            elif value is not None:
                scaled[name] = [round(epoch * factor) for epoch in value]
    return scaled


CHOICES: dict[str, Sequence[str]] = {
    'struct': STRUCTS,
    'criteria': CRITERIA,
    'prune_type': PRUNE_TYPES,
    'RST_schedule': tuple(SCHEDULES),
    'reg_mode': ('progress', 'upstream'),
    'vit_prune_target': ('head', 'mlp', 'both'),
    'sorting_mode': ('layer-wise', 'global'),
    'scope': SCOPES,
    'optimizer': ('sgd', 'adamw'),
}
_FRACTION = (0.0, 1.0, 'a fraction from 0 to 1')
_POSITIVE = (1e-12, 1e12, 'above 0')
_COUNT = (1, 10**9, 'at least 1')
RANGES: dict[str, tuple[float, float, str]] = {
    'rate': _FRACTION,
    'mlp_prune_ratio': _FRACTION,
    'fillback_rate': _FRACTION,
    'alpha': _FRACTION,
    'lr': _POSITIVE,
    'temperature': _POSITIVE,
    'exponents': _POSITIVE,
    'reg_granularity_prune': _POSITIVE,
    'reg_ceiling': (0.0, 1e12, 'at least 0'),
    'momentum': (0.0, 0.999999, 'at least 0 and below 1'),
    'weight_decay': (0.0, 1e12, 'at least 0'),
    'pruning_times': _COUNT,
    'epochs': _COUNT,
    'batch_size': _COUNT,
    'accumulate': _COUNT,
    'criteria_batches': _COUNT,
    'rewind_epoch': (0, 10**9, 'at least 0'),
    'warmup': (0, 10**9, 'at least 0'),
    'seed': (0, 2**31 - 1, 'from 0 to 2,147,483,647'),
    'target_accuracy': (0.0, 100.0, 'per cent, from 0 to 100'),
}


def _boolean(text: str) -> bool:
    words = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f'{text} is neither True nor False')
    return words[text.lower()]


def _epochs(text: str) -> list[int]:
    try:
        epochs = [int(part) for part in text.split(',') if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text} is no list of epochs such as 91,136') from None
    if sorted(set(epochs)) != epochs or (epochs and epochs[0] < 1):
        raise argparse.ArgumentTypeError(f'{text} is no growing list of epochs such as 91,136')
    return epochs


def _layer_rate(text: str) -> tuple[str, float]:
    pattern, _, factor = text.rpartition('=')
    try:
        return pattern or 1 / 0, float(factor)  # type: ignore[return-value]
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text} is not PATTERN=FACTOR, such as 'layer1.*=0.5'") from None


class _Adder:
    """Adds options whose names may be written with either sign; what is not given stays out of the result."""

    def __init__(self, parser: argparse.ArgumentParser, title: str, description: str | None = None) -> None:
        self.group = parser.add_argument_group(title, description)

    def __call__(self, *names: str, **options: Any) -> None:
        both = [name.replace('_', '-') for name in names if '_' in name]
        options.setdefault('dest', names[0].lstrip('-'))
        self.group.add_argument(*names, *both, default=argparse.SUPPRESS, **options)


def build_parser() -> argparse.ArgumentParser:
    """The parser; its help is the reference of the command."""
    parser = Parser(
        prog='main_imp_fillback.py',
        description='Trains a sparse network level by level: IMP, Refill or RSST. Run again, it goes on where it was.',
        epilog='exit codes: 0 done, 2 a mistake in what was asked (one line says which), 130 interrupted',
    )
    parser.add_argument('config', nargs='?', default=None, help='a recipe (configs/sparse/); flags count more')
    add = _Adder(parser, 'network and data')
    add('--arch', metavar='NAME', help='res20s, vit_tiny ..., or a registered class (res20s)')
    add('--import', dest='imports', nargs='+', metavar='MODULE', help='modules that register classes')
    add('--dataset', metavar='NAME', help='cifar10, cifar100, tiny-imagenet, imagenet, folder, digits (cifar100)')
    add('--data', metavar='DIR', help="where the data lie (the recipe's place)")
    add('--batch_size', type=at_least(1), metavar='N', help="(the data set's: 128 for CIFAR, 50 for digits)")
    add('--workers', type=at_least(0), metavar='N', help="data loading processes (the data set's)")
    add('--pretrained', metavar='FILE', help='start from the tensors of a checkpoint whose names and shapes fit')
    add('--vit_pretrained', action='store_true', help='the file of --pretrained is a trained ViT, which is checked')
    add('--vit_pretrained_21k', action='store_true', help='the same, of one that was trained on ImageNet-21k')
    add('--init', metavar='FILE', help='initial weights: read if the file is there, else written (drawn by the seed)')
    add = _Adder(parser, 'what is pruned')
    add('--struct', help='imp: single weights; refill: channels; rsst: channels, by a growing penalty (rsst)')
    add('--pruning_times', type=int, metavar='N', help='levels, the dense one included (20)')
    add('--rate', type=float, metavar='R', help='fraction of what is left that a level prunes (0.2)')
    add('--mlp_prune_ratio', type=float, metavar='R', help='that of MLP neurons (--rate)')
    add('--scope', help='of the threshold on magnitudes: global, layer-wise, filter-wise (global)')
    add('--progressive_rate', action='store_true', help='0.8, 0.6, 0.4 of the rate from level 5, 10, 15 on')
    add('--layer_rates', nargs='+', type=_layer_rate, metavar='P=F', help="factors of the rate: 'layer1.*=0.5'")
    add('--conv1', action='store_true', help='the stem is pruned too')
    add('--fc', action='store_true', help='the classifier is pruned too, by elements')
    add('--criteria', help=f'how channels, heads, neurons are scored: {", ".join(CRITERIA)} (l1)')
    add('--criteria_batches', type=int, metavar='N', help='batches that l1, l2, saliency, hessian look at (4)')
    add('--fillback_rate', type=float, metavar='F', help='fraction of the channels that come back: Refill+ (0)')
    add('--vit_structured', action='store_true', help='heads and neurons of a ViT are the units, not rows')
    add('--vit_prune_target', help='head, mlp or both (head)')
    add('--sorting_mode', help='units compete within a layer or among all: layer-wise, global (layer-wise)')
    add = _Adder(parser, 'the penalty of rsst')
    add('--RST_schedule', help=f'how lambda grows: {", ".join(SCHEDULES)} (exp_custom_exponents)')
    add('--exponents', type=float, metavar='E', help='of exp_custom_exponents (4)')
    add(
        '--reg_granularity_prune',
        type=float,
        metavar='G',
        help='what lambda grows to (1); for adamw in units of 1 / lr, as weights shrink by lr * lambda there',
    )
    add('--reg_ceiling', type=float, metavar='G', help='lambda never exceeds it (1), same units')
    add('--reg_mode', help="progress of the level, or upstream: the public code's numbers, to compare (progress)")
    add('--block_loss_grad', type=_boolean, nargs='?', const=True, help='penalised weights see no loss (False)')
    add('--target_accuracy', type=float, metavar='P', help='dynamic lambda: halved after an epoch below it')
    add = _Adder(parser, 'where a level starts')
    add('--prune_type', help='lt: initial weights; pt, pt_trans: those, with a new stem and classifier; rewind_lt (lt)')
    add('--rewind_epoch', type=int, metavar='N', help='of rewind_lt, counted from 0 (24 of 120)')
    add = _Adder(parser, 'training')
    add(
        '--epochs',
        type=int,
        metavar='N',
        help=f'of each level ({EPOCHS}); warm-up, milestones and rewinding of the recipe go with it',
    )
    add('--lr', type=float, help='(0.01)')
    add('--warmup', type=int, metavar='N', help=f'epochs of a growing learning rate ({WARMUP} of {EPOCHS})')
    add('--decreasing_lr', type=_epochs, metavar='N,N', help='epochs after which it is a tenth (91,136 of 120)')
    add('--momentum', type=float, help='(0.9)')
    add('--weight_decay', type=float, help='(1e-4)')
    add('--optimizer', help='sgd or adamw (sgd)')
    add('--accumulate', type=int, metavar='N', help='batches whose gradients make one step (1)')
    add('--amp', action='store_true', help='mixed precision; needs a GPU')
    add('--distill', action='store_true', help='levels learn from level 0 too')
    add('--alpha', type=float, help='weight of the labels, 1 - alpha that of the teacher (0.5)')
    add('--temperature', type=float, metavar='T', help='of the distillation (3)')
    add('--seed', type=int, help='(0)')
    add('--deterministic', action='store_true', help='only operations that give the same numbers each time')
    add = _Adder(parser, 'where to')
    add('--save_dir', metavar='DIR', help='(work_dirs/NAME)')
    add('--exp_name', metavar='NAME', help='of the run, on WandB too (made of the settings)')
    add('--file_name', metavar='NAME', help="of the levels' table in the folder (levels.csv)")
    add('--dense_level', metavar='DIR', help='level 0 of another run with the same settings: used, or made there')
    add('--slim', action='store_true', help='also write each structured level as a physically smaller network')
    add('--print_freq', type=at_least(1), metavar='N', help='steps between lines of the log (10)')
    add('--backends', nargs='+', choices=tuple(BACKENDS), help='where curves go (local)')
    add('--overwrite', action='store_true', help='replace an earlier result of other settings')
    add('--resume', action='store_true', help='go on; an error if there is nothing to go on with')
    add('--checkpoint', metavar='FILE', help='of --resume: a file of the run that goes on, in place of --save_dir')
    group = add_machine_options(parser)
    group.add_argument('--gpu', type=at_least(0), metavar='ID', help='the one GPU to use')
    add = _Adder(parser, 'accepted, and refused when used')
    for name in ('mamba_pretrained', 'mamba_structured'):
        add(f'--{name}', action='store_true', help=argparse.SUPPRESS)
    for name in ('mamba_prune_target', 'mamba_mlp_prune_ratio'):
        add(f'--{name}', help=argparse.SUPPRESS)
    add_config_options(parser)
    return parser
