"""One picture of a frame: six cameras and bird's-eye views side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vadslim.vad.visualization import EGO_SIZE, MAP_COLORS, MAP_NAMES

from .bev import DRIVEN_COLOR, draw_view
from .camera import RIBBON_WIDTH, paint_boxes, paint_path, places_of, resize
from .view import View

PLAN_COLORS = ('#0a84ff', '#e6007e')
KINDS = {  # name in the legend -> color, classes
    'vehicle': ('#e09600', ('car', 'truck', 'construction_vehicle', 'bus', 'trailer')),
    'two-wheeler': ('#8a2be2', ('motorcycle', 'bicycle')),
    'pedestrian': ('#ff3b5c', ('pedestrian',)),
    'obstacle': ('#00a5b5', ('barrier', 'traffic_cone')),
}
OTHER = '#6c757d'
TILE = 3.2  # width of a camera, inches
GAP, HEADER, FOOTER = 0.08, 0.36, 0.36  # inches


@dataclass(frozen=True)
class Cameras:
    """The images of a frame.

    Attributes:
        images: (H, W, 3) uint8 RGB each.
        lidar2img: (4, 4) each, LiDAR metres -> pixels of the image.
        names: ``FRONT``, ``FRONT_LEFT``, ...
    """

    images: Sequence[np.ndarray]
    lidar2img: Sequence[np.ndarray]
    names: Sequence[str]


def draw_frame(
    cameras: Cameras,
    views: Sequence[View],
    classes: Sequence[str],
    extent: tuple[float, float, float, float] = (-15.0, -30.0, 15.0, 30.0),
    header: str = '',
    dpi: int = 200,
    boxes_of: Sequence[int] = (0,),
) -> np.ndarray:
    """Draw a frame.

    The planned paths of all views are painted on the cameras. One view's boxes are painted in the colors of their
    classes; those of several in the colors of their plans.

    Args:
        cameras: six, or any number.
        views: the panels beside the cameras; a driven path in one of them is dashed in the others.
        classes: names of the classes.
        extent: x_min, y_min, x_max, y_max of the panels, metres.
        header: one line over the cameras.
        dpi: pixels per inch; the picture is about 14 inches wide for two panels.
        boxes_of: the views whose boxes are painted on the cameras.

    Returns:
        (H, W, 3) uint8, RGB; H and W are even, as videos want them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colors = agent_colors(classes)
    plan_colors = _plan_colors(views)
    mosaic, corners = _mosaic(cameras, views, boxes_of, colors, plan_colors, round(TILE * dpi))
    left, below = mosaic.shape[1] / dpi, mosaic.shape[0] / dpi
    panel_height = below + FOOTER
    panel_width = panel_height * (extent[2] - extent[0]) / (extent[3] - extent[1])
    width = left + 2 * GAP + len(views) * (panel_width + GAP)
    height = panel_height + HEADER + GAP
    figure = Figure(figsize=(_even(width * dpi) / dpi, _even(height * dpi) / dpi), dpi=dpi, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    edge, bottom = GAP, GAP + FOOTER
    figure.figimage(mosaic, edge * dpi, bottom * dpi)
    figure.text(edge / width, 1 - (HEADER - 4 / 72) / height, header, fontsize=9, va='baseline', color='#222222')
    for name, (x, y) in zip(cameras.names, corners):
        place = ((edge + (x / dpi) + 0.07) / width, 1 - (HEADER + y / dpi + 0.07) / height)
        label = name.replace('_', ' ').lower()
        figure.text(*place, label, fontsize=7, color='white', va='top', bbox=dict(fc='#000000a0', lw=0, pad=2))
    driven = next((view.plan for view in views if view.driven), None)
    for i, view in enumerate(views):
        x = edge + left + GAP + i * (panel_width + GAP)
        axes = figure.add_axes((x / width, GAP / height, panel_width / width, panel_height / height))
        draw_view(axes, view, colors, plan_colors[i], extent, None if view.driven else driven)
        if i == 0:
            _scale_bar(axes, extent)
    handles, labels = _legend(views, plan_colors, colors, driven is not None)
    for size in (8, 7, 6, 5):  # long names
        legend = figure.legend(
            handles,
            labels,
            loc='center left',
            bbox_to_anchor=(edge / width, (GAP + FOOTER) / 2 / height),
            ncols=len(labels),
            frameon=False,
            fontsize=size,
            handlelength=1.6,
            columnspacing=1.6,
            borderaxespad=0,
        )
        if size == 5 or legend.get_window_extent(canvas.get_renderer()).width <= mosaic.shape[1]:
            break
        legend.remove()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def agent_colors(classes: Sequence[str]) -> list[str]:
    """Color of each class."""
    known = {name: color for color, names in KINDS.values() for name in names}
    return [known.get(name, OTHER) for name in classes]


def _plan_colors(views: Sequence[View]) -> list[str]:
    """One per view; a driven path takes none of the colors."""
    colors = iter(PLAN_COLORS * len(views))
    return [DRIVEN_COLOR if view.driven else next(colors) for view in views]


def _mosaic(
    cameras: Cameras,
    views: Sequence[View],
    boxes_of: Sequence[int],
    colors: Sequence[str],
    plan_colors: Sequence[str],
    width: int,
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The painted cameras in rows of three, and the pixel (x, y) of each one's upper left corner."""
    planned = [
        (view.plan, color) for view, color in zip(views, plan_colors) if view.plan is not None and not view.driven
    ]
    tiles = []
    for image, lidar2img in zip(cameras.images, cameras.lidar2img):
        tile, factors = resize(image, width)
        matrix = np.diag([*factors, 1.0, 1.0]) @ lidar2img
        for nth, (path, color) in enumerate(planned):  # the next one lies narrower on the one before
            paint_path(tile, matrix, path, _rgb(color), RIBBON_WIDTH * 0.55**nth)
        for i in boxes_of:
            own = [_rgb(plan_colors[i] if len(boxes_of) > 1 else colors[kind]) for kind in views[i].kinds]
            paint_boxes(tile, matrix, views[i].boxes, own, thickness=max(1, round(width / 480)))
        tiles.append(tile)
    gap = max(2, width // 200)
    height = max(tile.shape[0] for tile in tiles)
    columns, rows = min(3, len(tiles)), -(-len(tiles) // 3)
    mosaic = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    corners = []
    for place, tile in zip(places_of(cameras.names), tiles):
        x, y = place % 3 * (width + gap), place // 3 * (height + gap)
        mosaic[y : y + tile.shape[0], x : x + width] = tile
        corners.append((x, y))
    return mosaic, corners


def _legend(
    views: Sequence[View], plan_colors: Sequence[str], colors: Sequence[str], driven: bool
) -> tuple[list, list[str]]:
    """Handles and labels of everything that can be in the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, object] = {}
    planned = [(view, color) for view, color in zip(views, plan_colors) if view.plan is not None and not view.driven]
    for view, color in planned:
        entries[f'plan: {view.title}' if len(planned) > 1 else 'plan, 3 s'] = Line2D([], [], color=color, lw=2.2)
    if driven:
        dashed = dict(lw=1.1, ls=(0, (2.5, 1.5))) if planned else dict(lw=2.2)
        entries['driven'] = Line2D([], [], color=DRIVEN_COLOR, **dashed)
    for name, (color, _) in KINDS.items():  # the same in all frames: a video is to be calm
        if color in colors:
            entries[name] = Patch(fc=f'{color}4d', ec=color)
    for name, color in zip(MAP_NAMES, MAP_COLORS):
        entries[name] = Line2D([], [], color=color)
    return list(entries.values()), list(entries)


def _scale_bar(axes, extent: tuple[float, float, float, float]) -> None:
    """Ten metres, in the lower left corner."""
    x, y = extent[0] + EGO_SIZE[0] / 2, extent[1] + 1.2
    halo = dict(fc='#fbfbfbd0', lw=0, pad=0.6)
    axes.plot([x, x + 10], [y, y], color='#444444', lw=1.4, solid_capstyle='butt', zorder=8)
    axes.text(x + 5, y + 0.5, '10 m', fontsize=7, color='#444444', ha='center', va='bottom', zorder=8, bbox=halo)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.lstrip('#'))
    return red, green, blue


def _even(pixels: float) -> int:
    return 2 * round(pixels / 2)
