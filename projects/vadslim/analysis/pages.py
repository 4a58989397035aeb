"""The files of a report besides its JSON: a page, a table of layers, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vadslim.analysis.layer_sizes import LayerSize, PartSize, to_csv
from vadslim.analysis.report import Report
from vadslim.checkpoint import atomic_write

PAGE, LAYERS = 'report.html', 'layers.csv'
WIDTHS, PARAMS, MACS, LATENCY, LEVELS = 'widths.png', 'params.png', 'macs.png', 'latency.png', 'levels.png'
#: All that ``write_pages`` may write.
PAGE_FILES = (PAGE, LAYERS, WIDTHS, PARAMS, MACS, LATENCY, LEVELS)


def draw(
    layers: Sequence[LayerSize],
    parts: Sequence[PartSize],
    levels: Sequence[Mapping[str, float | None]] = (),
) -> dict[str, tuple[str, bytes]]:
    """file name -> (what it shows, PNG) of every picture that there are data for; arguments as ``write_pages``."""
    from vadslim.analysis.plots import levels_picture, parts_picture, widths_picture

    names = [part.name for part in parts if part.name]
    pictures = {WIDTHS: ('Width of each layer before and after', widths_picture(layers, names))} if layers else {}
    for file, cost, what in ((PARAMS, 'params', 'Parameters'), (MACS, 'macs', 'MACs'), (LATENCY, 'ms', 'Latency')):
        if parts and getattr(parts[0], cost) is not None:
            pictures[file] = (f'{what} of each part of the network before and after', parts_picture(parts, cost))
    if len(levels) > 2:
        pictures[LEVELS] = ('Costs and results level by level', levels_picture(levels))
    return pictures


def write_pages(
    folder: Path,
    report: Report,
    layers: Sequence[LayerSize],
    parts: Sequence[PartSize],
    levels: Sequence[Mapping[str, float | None]] = (),
) -> list[Path]:
    """Writes the page, the table and the pictures, each whole or not at all.

    Args:
        folder: where to; it exists.
        report: what ``report.json`` says.
        layers: of ``layer_sizes``.
        parts: of ``part_sizes``.
        levels: of an iterative pruning: name -> value of the dense network and of each level.

    Returns:
        The files.
    """
    from vadslim.analysis.html_report import render

    pictures = draw(layers, parts, levels)
    texts = {LAYERS: to_csv(layers), PAGE: render(report, layers, dict(pictures.values()))}
    for name, (_, png) in pictures.items():
        with atomic_write(folder / name, 'wb') as file:
            file.write(png)
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text)
    return [folder / name for name in (*texts, *pictures)]
