"""The costs of a network that a config builds: what ``model_analysis.py --config`` does.

The rest of that command reads headers and runs nothing; this imports torch and MMEngine, but only when it is called.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .cli import UserError, at_least

RUN_JSON, RUN_TEXT, RUN_PAGE = 'run_analysis.json', 'run_analysis.txt', 'run_analysis.html'
TEXT_WIDTH = 160


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run; ``--model_path``, ``--output_dir`` and ``--device`` are the command's own."""
    group = parser.add_argument_group('a network that runs', 'with --config it is built, run, counted and timed')
    add = group.add_argument
    add('--config', metavar='FILE', help='an MMEngine config with a model; --model_path is its checkpoint, if any')
    add('--depth', type=at_least(1), default=3, metavar='N', help='how deep the table of modules goes (3)')
    add(
        '--latency',
        type=at_least(1),
        nargs='?',
        const=3,
        default=0,
        metavar='REPEATS',
        help='time the modules too, the median of REPEATS forwards (3)',
    )
    add('--threads', type=at_least(1), metavar='N', help="torch's threads on the CPU")
    add(
        '--shape',
        type=at_least(1),
        nargs='+',
        metavar='N',
        help='size of one input of zeros, as 3 800 1333, for a model that declares no example and a config whose '
        'data are not at hand',
    )
    add(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='put values over the config; a key that does not exist is an error',
    )


def analyse_run(options: argparse.Namespace) -> int:
    """Build the network of ``options.config``, report what one forward costs, and write it.

    Args:
        options: of :func:`add_run_options`, and where there are such: ``model_path`` (a checkpoint, dense or slim;
            without one the weights are random), ``output_dir`` (nothing is written without one), ``device`` ('cpu',
            'cuda'; by default the best there is).

    Returns:
        The exit code.

    Raises:
        UserError: the network cannot be built or run as asked.
    """
    from rich.console import Console

    from .analysis.run_tables import print_run

    report = run_report(options)
    print_run(report, Console(markup=False, highlight=False))
    output = getattr(options, 'output_dir', None)
    if output:
        write_run(report, Path(output))
    return 0


def run_report(options: argparse.Namespace) -> Any:
    """What :func:`analyse_run` prints, a ``RunReport``."""
    import torch

    from .analysis.run_report import collect, compute
    from .slimming.network import load_network

    device = _device(getattr(options, 'device', None))
    checkpoint = getattr(options, 'model_path', None)
    path = Path(options.config)
    network = load_network(path, options.cfg_options, Path(checkpoint) if checkpoint else None, 0, device)
    model = network.model
    example = _zeros(options.shape) if options.shape else network.examples[1]
    if example is None:
        raise UserError(f'{path}: cannot be run: {network.examples[2]}; --shape 3 H W gives an input of zeros')
    threads = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        collected = collect(model, example, options.depth, options.latency)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if not options.shape:
            raise
        line = ' '.join(str(error).split())[:200]
        raise UserError(f'{path}: its model does not run on zeros of 1 x {_by(options.shape)}: {line}') from error
    finally:
        torch.set_num_threads(threads)
    settings = {
        'config': path.name,
        'checkpoint': None if checkpoint is None else str(checkpoint),
        'weights': 'random' if checkpoint is None else 'of the checkpoint',
        'network': 'slim' if network.structure is not None else 'dense',
        'cfg_options': options.cfg_options,
    }
    return compute(collected, options.depth, settings)


def write_run(report: Any, folder: Path) -> list[Path]:
    """Write a report as JSON, text and HTML, each whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    from rich.console import Console

    from .analysis.run_page import render_run
    from .analysis.run_tables import print_run
    from .files import atomic_write

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / RUN_JSON) as file:
            json.dump(report.to_dict(), file, indent=1, ensure_ascii=False)
        with atomic_write(folder / RUN_TEXT) as file:
            print_run(report, Console(file=file, width=TEXT_WIDTH, markup=False, highlight=False))
        with atomic_write(folder / RUN_PAGE) as file:
            file.write(render_run(report))
    except OSError as error:
        raise UserError(f'{error.filename or folder}: cannot be written: {error.strerror}') from error
    return [folder / name for name in (RUN_JSON, RUN_TEXT, RUN_PAGE)]


def _zeros(shape: list[int]) -> Any:
    """One forward of an MMEngine model in mode 'tensor' on an input of zeros, (channels, ..., height, width).

    Detectors want to know of each image how large it is.
    """
    import inspect

    import torch
    from mmengine.structures import BaseDataElement

    from .analysis import Example

    size = tuple(shape[-2:])
    names = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    sample = BaseDataElement(metainfo={**dict.fromkeys(names, size), 'scale_factor': (1.0, 1.0)})

    def run(model: Any) -> Any:
        takes = inspect.signature(model.forward).parameters
        given = {'data_samples': [sample.clone()], 'mode': 'tensor'}
        inputs = next(model.parameters(), torch.zeros(())).new_zeros(1, *shape)
        return model(inputs, **{name: value for name, value in given.items() if name in takes})

    return Example(run, f'{_by(shape)} zeros, batch 1')


def _by(shape: list[int]) -> str:
    return ' x '.join(map(str, shape))


def _device(name: str | None) -> str:
    """The device that a name means."""
    import torch

    if not name:
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'--device {name}: cpu or cuda is allowed') from None
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise UserError(f'--device {name}: there is no CUDA device')
    return name
