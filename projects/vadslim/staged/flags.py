"""The command line of staged training: the parser, and the keys that its options set."""

import argparse
from collections.abc import Sequence
from typing import Any

from vadslim.cli import Parser, UserError, add_machine_options

#: option -> the key that it sets
FLAGS = {
    'init_from': 'init_from',
    'lr': 'training.lr',
    'epochs': 'training.epochs',
    'batch_size': 'training.batch_size',
    'save_dir': 'training.save_dir',
    'device': 'device.type',
    'seed': 'seed',
    'num_workers': 'data.num_workers',
}
_HELP = {
    'init_from': ('CKPT', "weights to start from, for every stage that runs; best_NAME.pth: stage NAME's best; random"),
    'lr': ('LR', 'learning rate'),
    'epochs': ('N', 'epochs of each stage that runs'),
    'batch_size': ('N', 'samples in a batch'),
    'save_dir': ('DIR', "a stage's files go to DIR/NAME"),
    'device': ('TYPE', 'cuda or cpu (cuda if there is one)'),
    'seed': ('N', 'random seed'),
    'num_workers': ('N', 'data loading processes'),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser; what is not given stays None."""
    parser = Parser(
        prog='train_stages.py',
        description='Run the stages of one config. What counts more: this command line, the stage, the file, what it '
        'extends, the defaults. Run again, it goes on where it was.',
        epilog='exit codes: 0 done, 2 a mistake in what was asked (one line says which), 130 interrupted',
    )
    add = parser.add_argument
    add('config', nargs='?', help='a YAML or Python config; may be missing with --resume PATH')
    add('--config', dest='config_option', metavar='CONFIG', help='the same')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--stage', metavar='NAME', help='run this stage')
    which.add_argument('--run-all-stages', '--run_all_stages', action='store_true', help='run all, one after another')
    add(
        '--resume',
        nargs='?',
        const='latest',
        metavar='PATH',
        help="go on from a checkpoint, whose config is used, or from the stage's latest, also with other settings",
    )
    add('--overwrite', action='store_true', help='clear the folder of a stage that holds results of other settings')
    group = parser.add_argument_group('settings')
    for name, (metavar, text) in _HELP.items():
        spellings = dict.fromkeys((f'--{name}', f'--{name.replace("_", "-")}'))
        group.add_argument(*spellings, metavar=metavar, help=text)
    group.add_argument(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='any setting by its dotted key, training.mask_ratio=0.5; of one stage: stages.NAME.training.lr=1e-4',
    )
    add('--import', dest='imports', nargs='+', default=[], metavar='MODULE', help='modules that register tasks')
    add_machine_options(parser)
    return parser


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ``config`` is the one of either place.

    Raises:
        UserError: what was given does not go together.
    """
    options = build_parser().parse_args(argv)
    if options.config and options.config_option:
        raise UserError(f'the config is given twice: {options.config} and --config {options.config_option}')
    options.config = options.config or options.config_option
    if not options.config and options.resume in (None, 'latest'):
        raise UserError('a config is needed (--config FILE; it may be missing with --resume PATH only)')
    if options.resume and options.init_from:
        raise UserError(
            '--resume goes on with the weights of its checkpoint, --init_from starts from others: choose one'
        )
    if options.resume and options.overwrite:
        raise UserError('--resume goes on with what a folder holds, --overwrite clears it: choose one')
    if options.run_all_stages and not options.config:
        raise UserError('--run-all-stages needs --config FILE: the checkpoint of --resume holds one stage')
    return options


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Dotted key -> text, as typed, of what was given.

    Raises:
        UserError: a key is set twice, or a text of ``--set`` is none.
    """
    given: dict[str, Any] = {
        key: value for name, key in FLAGS.items() if (value := getattr(options, name, None)) is not None
    }
    for text in options.set:
        key, value = split_setting(text)
        if key in given:
            raise UserError(f'--set {text}: {key} is given twice')
        given[key] = Typed(value)
        given[key].option = f'--set {key}'
    return given


class Typed(str):
    """A text of ``--set``, which knows the option that errors are to name: its key may get shorter on the way."""

    option: str


def split_setting(text: str) -> tuple[str, str]:
    """Take ``KEY=VALUE`` apart."""
    key, equals, value = text.partition('=')
    if not equals or not all(key.split('.')):
        raise UserError(f'--set {text}: write KEY=VALUE, such as training.lr=1e-3')
    return key, value


def option_of(key: str, value: Any = None) -> str:
    """The option that sets a key to a value, for errors."""
    if isinstance(value, Typed):
        return value.option
    return next((f'--{name}' for name, other in FLAGS.items() if other == key), f'--set {key}')
