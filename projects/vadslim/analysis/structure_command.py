"""``model_analysis.py`` of files: what a checkpoint holds and what it has lost, with nothing loaded or run."""

from __future__ import annotations

import argparse
import errno
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from vadslim.analysis.headers import read_headers
from vadslim.analysis.layer_parts import PARTS, PartTable
from vadslim.analysis.model_comparison import compare_structures
from vadslim.analysis.model_structure import analyse
from vadslim.analysis.structure_page import render_page
from vadslim.analysis.structure_summary import summarize
from vadslim.analysis.structure_tables import print_comparison, print_model
from vadslim.analysis.structure_text import pruning_comparison, pruning_summary_by_layer, structure_summary
from vadslim.cli import Parser, UserError, say
from vadslim.files import atomic_write

MOST_CLASSES = 100  # that a pickle names, in the JSON
WIDTH = 160  # of tables that no terminal breaks
EPILOG = (
    'exit codes: 0 done; 1 --check found values that are not finite; 2 one line says what is wrong; 130 interrupted'
)
MODEL_HELP = (
    'a .safetensors, .pth, .pt or .bin file, an index of shards, or a folder with one of these or a config.json'
)


Model = dict[str, Any]


class Reading(NamedTuple):
    """How deep models are read: whether zeros are counted, values are checked; which part a tensor is of."""

    zeros: bool = False
    check: bool = False
    table: PartTable = PartTable()


def make_parser() -> Parser:
    """The command's arguments, as :func:`analyse_files` takes them."""
    parser = Parser(
        prog='model_analysis.py',
        description='Says what a checkpoint holds, and what it has lost against the model it was pruned from. Reads '
        'names, shapes and types: nothing is loaded, nothing that a file names is run.',
        epilog=EPILOG,
    )
    add = parser.add_argument
    add('--model_path', '--model-path', '--pruned', metavar='MODEL', help=f'the model: {MODEL_HELP}')
    add('--compare_with', '--compare-with', '--original', metavar='MODEL', help='the model that it was pruned from')
    add('--output_dir', '--output-dir', metavar='DIR', help="where files go (analysis/ in the model's folder)")
    add('--model_name', '--model-name', metavar='NAME', help="what to call the model (its file's or folder's name)")
    add('--compare_name', '--compare-name', metavar='NAME', help='what to call the original')
    add('--plots', action='store_true', help='PNG charts, too (needs matplotlib, takes a second)')
    add('--quiet', action='store_true', help='print no tables')
    add('--verbose', action='store_true', help=argparse.SUPPRESS)  # is the default
    add('--save_json', '--save-json', action='store_true', help=argparse.SUPPRESS)  # is always done
    add_reading_options(parser)
    return parser


def analyse_files(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Reads one model or two, writes and prints what they hold.

    Args:
        options: of :func:`make_parser`.
        argv: what they were read from: says which names the models were given.

    Returns:
        The exit code.
    """
    if not options.model_path:
        raise UserError('the following arguments are required: --model_path (see --help)')
    reading = reading_of(options)
    base = read_model(options.compare_with, reading, options.compare_name) if options.compare_with else None
    model = read_model(options.model_path, reading, options.model_name, base)
    if base and base['total_params'] < model['total_params']:
        if any(word.startswith(('--pruned', '--original')) for word in argv):
            say(f'note: {base["path"]} is smaller than {model["path"]}, and is taken as the original as you say')
        else:
            say(
                f'note: {base["path"]} is smaller than {model["path"]}: taken as the pruned one '
                '(--pruned and --original, in place of --model_path and --compare_with, say which is which)'
            )
            model, base = base, model
    folder = Path(options.output_dir or default_folder(Path(model['path'])))
    files = files_of(model, base)
    if options.plots:
        files |= _plots(model, base)
    write_files(folder, files)
    if not options.quiet:
        _print(model, base)
    say(f'written to {folder}: {", ".join(files)}')
    return exit_code([model, *([base] if base else [])])


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that ``reading_of`` takes."""
    group = parser.add_argument_group('looking deeper')
    add = group.add_argument
    add('--count-zeros', '--count_zeros', action='store_true', help='read all values: zeros, and units that are zero')
    add('--check', action='store_true', help='read all values: are they finite?')
    add('--part', action='append', default=[], metavar='PATTERN=PART', type=_part,
        help=f'which part tensors of such names are of: {", ".join(PARTS)}')  # fmt: skip
    add('--device', help=argparse.SUPPRESS)  # of earlier tools: nothing is computed


def _part(text: str) -> tuple[str, str]:
    pattern, _, part = text.rpartition('=')
    if not pattern or part not in PARTS:
        raise argparse.ArgumentTypeError(f'{text} is not PATTERN=PART with one of {", ".join(PARTS)}')
    return pattern, part


def reading_of(options: argparse.Namespace) -> Reading:
    """How the arguments say that models are read."""
    return Reading(options.count_zeros, options.check, PartTable(first=tuple(options.part)))


def read_model(path: str | Path, reading: Reading, name: str | None = None, base: Model | None = None) -> Model:
    """Reads one model.

    Args:
        path: of a file or folder.
        reading: how deep.
        name: of the model.
        base: what it was pruned from: tells the width of a head where nothing else does.

    Returns:
        ``ModelStructure.to_dict``, with ``zeros`` where values were counted, and ``classes`` that a pickle names.
    """
    headers = read_headers(path)
    if headers.config is None and base is not None:
        headers.config = base['config']
    structure = analyse(headers, name, reading.table)
    data = structure.to_dict()
    if headers.classes:
        data['classes'] = list(headers.classes[:MOST_CLASSES])
    if reading.zeros or reading.check:
        from vadslim.analysis.structure_zeros import add_zeros

        add_zeros(data, structure, headers, reading.check)
    return data


def default_folder(model: Path) -> Path:
    """``analysis/`` beside a file, or in a folder."""
    return (model if model.is_dir() else model.parent) / 'analysis'


def files_of(model: Model, base: Model | None) -> dict[str, str | bytes]:
    """file name -> content, of all that is written about a model, and about what it has lost."""
    if base is None:
        return {
            'model_structure.json': as_json(model),
            'structure_summary.txt': structure_summary(model),
            'structure.html': render_page([summarize(model['model_name'], model)]),
        }
    comparison = compare_structures(base, model)
    return {
        'original_model_analysis.json': as_json(base),
        'pruned_model_analysis.json': as_json(model),
        'pruning_comparison.json': as_json(comparison),
        'pruning_comparison.txt': pruning_comparison(comparison),
        'structure_summary.txt': structure_summary(model, comparison),
        'pruning_summary_by_layer.txt': pruning_summary_by_layer(comparison),
        'structure.html': render_page([summarize(model['model_name'], model, comparison)]),
    }


def as_json(data: Any) -> str:
    """As all files of this kind are written."""
    return json.dumps(data, indent=2, ensure_ascii=False) + '\n'


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Writes all files, or none, into a folder that is made if need be."""
    name = ''
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:  # each appears under its name at the end
            for name, content in files.items():
                if (folder / name).is_dir():  # where renaming would fail, the others done
                    raise IsADirectoryError(errno.EISDIR, 'it is a folder')
                mode = 'w' if isinstance(content, str) else 'wb'
                file = stack.enter_context(atomic_write(folder / name, mode))
                file.write(content)
                file.flush()
    except FileExistsError:
        raise UserError(f'{folder}: is a file; a folder is needed here') from None
    except OSError as error:
        raise UserError(f'{folder / name}: cannot be written: {error.strerror or error}') from error


def exit_code(models: Sequence[Model]) -> int:
    """1 if values are not finite, else 0."""
    return int(any(model.get('zeros', {}).get('nonfinite') for model in models))


def _plots(model: Model, base: Model | None) -> dict[str, str | bytes]:
    from vadslim.analysis.structure_plots import pictures_of

    return dict(pictures_of(model, base))


def _print(model: Model, base: Model | None) -> None:
    import sys

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    print_model(model, console)
    if base is not None:
        print_comparison(compare_structures(base, model), console)
