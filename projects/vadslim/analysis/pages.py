"""The files of a report besides its JSON: a page, a table of layers, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from vadslim.analysis.html_page import Picture
from vadslim.analysis.layer_sizes import LayerSize, PartSize, to_csv
from vadslim.analysis.report import Report
from vadslim.checkpoint import atomic_write

if TYPE_CHECKING:
    from vadslim.analysis.level_report import Level

PAGE, LAYERS, LEVEL_TABLE = 'report.html', 'layers.csv', 'levels.csv'
WIDTHS, PARAMS, MACS, LATENCY, LEVELS = 'widths.png', 'params.png', 'macs.png', 'latency.png', 'levels.png'
SENSITIVITY = 'sensitivity.png'
#: All that ``write_pages`` may write.
PAGE_FILES = (PAGE, LAYERS, LEVEL_TABLE, WIDTHS, PARAMS, MACS, LATENCY, LEVELS, SENSITIVITY)


def draw(layers: Sequence[LayerSize], parts: Sequence[PartSize]) -> dict[str, Picture]:
    """file name -> picture, of all that there are data for; arguments as ``write_pages``."""
    from vadslim.analysis.plots import parts_picture, widths_picture

    names = [part.name for part in parts if part.name]
    what = 'Width of each layer before and after'
    pictures = {WIDTHS: Picture(what, widths_picture(layers, names), 'wide')} if layers else {}
    for file, cost, what in ((PARAMS, 'params', 'Parameters'), (MACS, 'macs', 'MACs'), (LATENCY, 'ms', 'Latency')):
        if parts and getattr(parts[0], cost) is not None:
            what = f'{what} of each part of the network before and after'
            pictures[file] = Picture(what, parts_picture(parts, cost))
    return pictures


def write_pages(
    folder: Path,
    report: Report,
    layers: Sequence[LayerSize],
    parts: Sequence[PartSize],
    levels: Sequence[Level] = (),
    more: Mapping[str, Picture] | None = None,
) -> list[Path]:
    """Writes the page, the tables and the pictures, each whole or not at all.

    Args:
        folder: where to; it exists.
        report: what ``report.json`` says.
        layers: of ``layer_sizes``.
        parts: of ``part_sizes``.
        levels: of an iterative pruning, as ``level_report`` takes them: the dense network, and each level. One alone
            is nothing to show.
        more: file name -> further pictures.

    Returns:
        The files.
    """
    from vadslim.analysis.html_report import render

    pictures = {**draw(layers, parts), **(more or {})}
    files = {name: picture.png for name, picture in pictures.items()}
    texts = {LAYERS: to_csv(layers)}
    section = Markup()
    if len(levels) > 1:
        from vadslim.analysis.level_report import level_report

        of_levels = level_report(levels)
        section, texts[LEVEL_TABLE] = of_levels.section, of_levels.table
        files[LEVELS] = of_levels.picture
    texts[PAGE] = render(report, layers, list(pictures.values()), section)
    for name, png in files.items():
        with atomic_write(folder / name, 'wb') as file:
            file.write(png)
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text)
    return [folder / name for name in (*texts, *files)]
