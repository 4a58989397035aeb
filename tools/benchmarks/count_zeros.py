#!/usr/bin/env python
"""How fast zeros are counted, beside reading the same bytes and doing nothing with them.

    python tools/benchmarks/count_zeros.py FOLDER [--size 1024] [--workers 2] [--repeats 9] [--output numbers.json]

Writes a safetensors file of that many MiB into FOLDER for each type and content, and removes it. Each repeat reads the
file (``readinto`` of one reused buffer per thread, as large as what the scan reads at once), with one thread and with
as many as the scan has, and scans it; the order turns from one repeat to the next. The page cache is warm.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from vadslim.analysis.headers import SIZES, read_headers
from vadslim.analysis.tensor_scan import PIECE, scan
from vadslim.cli import Parser, UserError, at_least, run

WIDTH = 4096  # inputs of a layer
MIB = 1 << 20


def weights(dtype: str, content: str, rows: int, draw: np.random.Generator) -> bytes:
    """Rows of normal numbers: ``dense``; ``masked``: half of them 0; ``units``: half of the rows and columns 0."""
    values = draw.standard_normal((rows, WIDTH), dtype=np.float32)
    if content == 'masked':
        values *= draw.random(values.shape, dtype=np.float32) < 0.5  # leaves -0.0 as well
    elif content == 'units':
        values[draw.random(rows) < 0.5] = 0
        values[:, ::2] = 0
    if dtype == 'BF16':
        return np.ascontiguousarray(values.view('<u2')[:, 1::2]).tobytes()
    return values.astype({'F16': '<f2', 'F32': '<f4', 'F64': '<f8'}[dtype]).tobytes()


def make(path: Path, dtype: str, content: str, size: int) -> None:
    """A file of layers of 64 MiB; they hold the same."""
    rows = 64 * MIB // (WIDTH * SIZES[dtype])
    layer = weights(dtype, content, rows, np.random.default_rng(0))
    count = max(1, size // len(layer))
    header = {
        f'layers.{i}.weight': {
            'dtype': dtype,
            'shape': [rows, WIDTH],
            'data_offsets': [i * len(layer), (i + 1) * len(layer)],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for _ in range(count):
            file.write(layer)


def read(path: Path, threads: int) -> None:
    """All bytes, each thread its part."""
    part = path.stat().st_size // threads + 1

    def work(number: int) -> None:
        buffer = memoryview(bytearray(PIECE))
        with path.open('rb', buffering=0) as file:
            file.seek(number * part)
            left = part
            while left > 0 and (got := file.readinto(buffer[:left])):
                left -= got

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def measure(path: Path, dtype: str, content: str, args: argparse.Namespace) -> dict[str, Any]:
    """GB/s of reading and of scanning: medians; ratios: medians over the repeats."""
    make(path, dtype, content, args.size * MIB)
    headers = read_headers(path)
    size = path.stat().st_size
    ways: dict[str, Callable[[], Any]] = {
        'read, one thread': lambda: read(path, 1),
        'read': lambda: read(path, args.workers),
        'scan': lambda: scan(headers, args.workers),
        'check': lambda: scan(headers, args.workers, check=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    repeats = range(-1, args.repeats)
    for i in track(repeats, f'{dtype}, {content}', console=Console(stderr=True), transient=True):
        names = list(ways)[i % len(ways) :] + list(ways)[: i % len(ways)]
        for name in names:
            start = time.perf_counter()
            ways[name]()
            if i >= 0:
                rates[name].append(size / (time.perf_counter() - start) / 1e9)
    return {
        'type': dtype,
        'content': content,
        'GB/s': {name: statistics.median(values) for name, values in rates.items()},
        'ratio': {
            name: statistics.median(mine / plain for mine, plain in zip(rates[name], rates['read']))
            for name in ('scan', 'check')
        },
    }


COLUMNS = ['type', 'content', 'read, one thread', 'read', 'scan', 'ratio', 'with check', 'ratio']


def line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
    rates, ratio = row['GB/s'], row['ratio']
    cells = [row['type'], row['content'], f'{rates["read, one thread"]:.2f}', f'{rates["read"]:.2f}']
    cells += [f'{rates["scan"]:.2f}', f'{ratio["scan"]:.2f}', f'{rates["check"]:.2f}', f'{ratio["check"]:.2f}']
    return f'| {" | ".join(cells)} |'


def main(argv: Sequence[str]) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='where the file is made, and removed')
    parser.add_argument('--size', type=at_least(64), default=1024, help='MiB of the file (1024)')
    parser.add_argument('--types', nargs='+', choices=['F32', 'BF16', 'F16', 'F64'], default=['F32', 'BF16', 'F16'])
    parser.add_argument('--contents', nargs='+', choices=['dense', 'masked', 'units'], help='(all)')
    parser.add_argument('--workers', type=at_least(1), default=2, help='threads (2)')
    parser.add_argument('--repeats', type=at_least(1), default=9, help='of each measurement (9)')
    parser.add_argument('--output', type=Path, help='JSON file of all numbers')
    args = parser.parse_args(argv)
    for folder in (args.folder, *([args.output.absolute().parent] if args.output else [])):
        if not folder.is_dir():
            raise UserError(f'{folder}: there is no such folder')
    print(f'{args.size} MiB, {args.workers} threads, {args.repeats} repeats, GB/s\n')
    print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
    rows = []
    path = args.folder / 'count_zeros.safetensors'
    try:
        for dtype, content in itertools.product(args.types, args.contents or ['dense', 'masked', 'units']):
            rows.append(measure(path, dtype, content, args))
            print(line(rows[-1]), flush=True)
    finally:
        path.unlink(missing_ok=True)
    if args.output:
        args.output.write_text(json.dumps({'size_mib': args.size, 'workers': args.workers, 'rows': rows}, indent=1))


if __name__ == '__main__':
    sys.exit(run(main))
