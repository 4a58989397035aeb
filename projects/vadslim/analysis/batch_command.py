"""``batch_model_analysis.py``: ``model_analysis.py`` for each model in a folder, and all of them in one file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from vadslim.analysis.headers import HeaderError
from vadslim.analysis.model_comparison import compare_structures
from vadslim.analysis.structure_command import (
    EPILOG,
    Model,
    Reading,
    add_reading_options,
    as_json,
    read_model,
    reading_of,
    write_files,
)
from vadslim.analysis.structure_page import render_page
from vadslim.analysis.structure_summary import summarize, to_merged_json
from vadslim.analysis.structure_text import structure_summary
from vadslim.cli import Parser, UserError, at_least, run, say

SLICED = ('embedding_dimensions', 'attention_input_dimensions')  # keys of SliceGPT's JSON
SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> int:
    parser = Parser(
        prog='batch_model_analysis.py',
        description='Says of each model in a folder what it holds, and what it has lost; one that cannot be read does '
        'not stop the others. Nothing is loaded, nothing that a file names is run.',
        epilog=EPILOG,
    )
    add = parser.add_argument
    add('--models_dir', '--models-dir', metavar='DIR', required=True, help='a folder with one folder for each model')
    add('--base_model', '--base-model', metavar='MODEL', help='what they were pruned from (none: no comparison)')
    add('--output_dir', '--output-dir', metavar='DIR', default='baselines_analysis', help='(baselines_analysis)')
    add('--merge_results', '--merge-results', action='store_true', help='models_summary.json, models.html of all')
    add('--workers', type=at_least(1), metavar='N', help='processes (the number of cores)')
    add_reading_options(parser)
    options = parser.parse_args(argv)
    folder, out, reading = Path(options.models_dir), Path(options.output_dir), reading_of(options)
    models = find_models(folder)
    base = read_model(options.base_model, reading) if options.base_model else None
    work = partial(_analyse, base=base, reading=reading)
    results: dict[str, dict[str, str]] = {}
    structures: dict[str, tuple[Model, dict[str, Any] | None]] = {}
    for path, found in zip(models, _each(work, models, options.workers, reading)):
        if isinstance(found, str):
            results[path.name] = {'status': 'error', 'error': found}
            say(f'✗ {path.name}: {found}')
            continue
        structures[path.name] = found
        results[path.name] = {'status': 'success'}
        say(f'✓ {path.name}: {found[0]["total_params"]:,} parameters' + _lost(found[1]))
    now = datetime.now()
    about = {'timestamp': now.isoformat(), 'base_model': options.base_model, 'device': options.device}
    files: dict[str, str | bytes] = {'batch_analysis_results.json': as_json({**about, 'results': results})}
    if options.merge_results:
        rows = [summarize(name, *found) for name, found in structures.items()]
        files['models_summary.json'] = as_json(to_merged_json(rows, str(folder), now))
        files['models.html'] = render_page(rows)
    write_files(out, files)
    failed = sum(result['status'] == 'error' for result in results.values())
    say(f'{len(structures)} of {len(models)} models analysed; written to {out}: {", ".join(files)}')
    not_finite = any(model.get('zeros', {}).get('nonfinite') for model, _ in structures.values())
    return 2 if failed else int(not_finite)


def find_models(folder: Path) -> list[Path]:
    """Folders that hold a model, by their names; the others are told.

    Raises:
        UserError: there is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder')
    found = []
    for path in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith('.')):
        kind = kind_of(path)
        if kind == 'no_model':
            say(f'⊘ {path.name}: holds no model, skipped')
        else:
            found.append(path)
    if not found:
        raise UserError(f'{folder}: none of its folders holds a model (config.json, *.safetensors, *.bin, *.pth, *.pt)')
    return found


def kind_of(folder: Path) -> str:
    """``slicegpt``, ``huggingface``, ``bin``, ``checkpoint`` or ``no_model``."""
    names = sorted(path.name for path in folder.iterdir())
    if any(_is_sliced(folder / name) for name in names if name.endswith('.json') and name != 'config.json'):
        return 'slicegpt'
    if 'config.json' in names:
        return 'huggingface'
    if 'pruned_model.bin' in names:
        return 'bin'
    if (folder / 'pruned_model').is_dir():
        return 'huggingface'
    return 'checkpoint' if any(name.endswith(SUFFIXES) for name in names) else 'no_model'


def _is_sliced(path: Path) -> bool:
    """Whether a JSON file is SliceGPT's. An index of shards of the largest models has a megabyte."""
    try:
        if not path.is_file() or path.stat().st_size > 4_000_000:
            return False
        text = path.read_text(encoding='utf-8')
        return any(f'"{key}"' in text for key in SLICED) and any(key in json.loads(text) for key in SLICED)
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def path_of(folder: Path) -> Path:
    """What of a model's folder is read: what was pruned comes first."""
    for name in ('pruned_model.bin', 'pruned_model'):
        if (folder / name).exists():
            return folder / name
    return folder


def _analyse(folder: Path, base: Model | None, reading: Reading) -> tuple[Model, dict[str, Any] | None] | str:
    """One model: its structure and what it has lost, or what is wrong with it. Writes ``analysis/``."""
    try:
        model = read_model(path_of(folder), reading, folder.name, base)
        comparison = compare_structures(base, model) if base else None
        files = {'model_structure.json': as_json(model)}
        if comparison:
            files['model_comparison.json'] = as_json(comparison)
        files['structure_summary.txt'] = structure_summary(model, comparison)
        write_files(folder / 'analysis', files)
    except (HeaderError, UserError) as error:
        return str(error)
    return model, comparison


def _each(work: Any, models: Sequence[Path], workers: int | None, reading: Reading) -> Iterator[Any]:
    """Results in the models' order. Counting values takes all cores for one model; headers take one each."""
    deep = reading.zeros or reading.check
    workers = min(workers or (1 if deep else os.cpu_count() or 1), len(models))
    if workers == 1:
        yield from map(work, models)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # not multiprocessing.Pool: it ends its workers by SIGTERM, which one that is just being forked can lose
    with ProcessPoolExecutor(workers, get_context('fork' if sys.platform == 'linux' else None)) as pool:
        yield from pool.map(work, models)


def _lost(comparison: dict[str, Any] | None) -> str:
    return f', {comparison["total_params"]["reduction_ratio"]:.2%} removed' if comparison else ''
