"""``summarize_model_structures.py``: all analysed models of some folders in one JSON file, text and page."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from vadslim.analysis.structure_command import write_files
from vadslim.analysis.structure_summary import Model, collect, to_json, to_text
from vadslim.cli import Parser, UserError, run, say


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = Parser(
        prog='summarize_model_structures.py',
        description='Summarises analysed models: each sub-folder that has model_structure.json or '
        'pruned_model_analysis.json, model_comparison.json or pruning_comparison.json, itself or in analysis/.',
        epilog='exit codes: 0 written; 2 nothing was found, or cannot be written (one line says what); 130 interrupted',
    )
    add = parser.add_argument
    add('--dirs', nargs='+', type=Path, default=[Path('baselines'), Path('results')], metavar='DIR',
        help='folders with a folder for each model (baselines results)')  # fmt: skip
    add('--output', default='models_structure_summary', metavar='PREFIX',
        help='what files are called before .json, .txt, .html (models_structure_summary)')  # fmt: skip
    add('--plots', action='store_true', help='draw PREFIX_retention.png and PREFIX_comparison.png, too')
    options = parser.parse_args(argv)
    prefix = _prefix(options.output)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')  # the marks below are in few encodings
    models = collect(options.dirs, print)
    if not models:
        print('✗ 未找到任何分析结果', flush=True)
        names = ', '.join(map(str, options.dirs))
        raise UserError(f'{names}: no sub-folder has results of model_analysis.py or batch_model_analysis.py')
    text = to_text(models)
    print(f'\n{text}', end='', flush=True)
    from vadslim.analysis.structure_page import render_page

    files: dict[str, str | bytes] = {
        f'{prefix.name}.json': json.dumps(to_json(models, datetime.now()), indent=2, ensure_ascii=False) + '\n',
        f'{prefix.name}.txt': text,
        f'{prefix.name}.html': render_page(models),
    }
    if options.plots:
        files |= _plots(models, prefix.name)
    write_files(prefix.parent, files)
    say(f'written to {prefix.parent}: {", ".join(files)}')


def _prefix(text: str) -> Path:
    path = Path(text)
    if path.name in ('', '..') or text.endswith('/'):
        raise UserError(f'--output {text}: names a folder; it has to end in what the names of the files begin with')
    return path


def _plots(models: Sequence[Model], name: str) -> dict[str, bytes]:
    try:
        from vadslim.analysis.structure_plots import comparison_picture, retention_picture

        drawn = {'comparison': comparison_picture(models), 'retention': retention_picture(models)}
    except ModuleNotFoundError as error:
        raise UserError(f'no picture can be made: {error.name} is not installed (pip install matplotlib)') from error
    for missing in (what for what, png in drawn.items() if png is None):
        say(f'{name}_{missing}.png: not drawn, there is no comparison with an original')
    return {f'{name}_{what}.png': png for what, png in drawn.items() if png is not None}
