"""Adds to a model's structure what counting the values told: zeros, empty units, values that are not finite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vadslim.analysis.headers import HeaderError, Headers
from vadslim.analysis.model_structure import ModelStructure

if TYPE_CHECKING:
    from vadslim.analysis.tensor_scan import Scan


def add_zeros(
    data: dict[str, Any],
    structure: ModelStructure,
    headers: Headers,
    check: bool = False,
) -> None:
    """Reads all values of a model and adds ``zeros`` to its dict and to those of its layers.

    Args:
        data: of ``structure.to_dict()``.
        structure: of ``analyse(headers)``.
        headers: of ``read_headers``.
        check: whether to look for values that are not finite: ``zeros.nonfinite`` is {tensor: how many}.

    Raises:
        HeaderError: the values cannot be read, or there are none.
    """
    from vadslim.analysis.tensor_scan import scan

    if not headers.tensors:
        raise HeaderError(f'{headers.path}: has a config.json and no weights, whose values could be counted')
    with _progress(structure.name) as progress:
        scans = {structure.renamed(name): found for name, found in scan(headers, None, progress, check).items()}
    skipped = {*structure.buffers, *structure.tied}
    data['zeros'] = _sum(found for name, found in scans.items() if name not in skipped)
    data['zeros']['checked'] = check
    data['zeros']['nonfinite'] = {name: found.nonfinite for name, found in scans.items() if found.nonfinite}
    for layer, row in zip(structure.layers, data['layers']):
        row['zeros'] = _sum(scans[name] for name in layer.tensors if name not in skipped)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for people, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _sum(scans: Iterable[Scan]) -> dict[str, Any]:
    """elements, zeros, sparsity of all values; units: rows of weights of two dimensions and more."""
    elements = zeros = units = zero_units = 0
    for scan in scans:
        elements += scan.elements
        zeros += scan.zeros
        units += scan.rows if scan.columns else 0
        zero_units += scan.zero_rows if scan.columns else 0
    sparsity = zeros / elements if elements else 0.0
    return {'elements': elements, 'zeros': zeros, 'sparsity': sparsity, 'units': units, 'zero_units': zero_units}
