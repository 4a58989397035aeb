"""Bird's-eye view pictures: map, agents, and planned paths. All coordinates are metres in the LiDAR frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vadslim.files import atomic_write
from vadslim.nuscenes_data.geometry import yaw_to_heading

MAP_COLORS = ('#8a94a6', '#5e3c99', '#1a9850')  # divider, pedestrian crossing, boundary
MAP_NAMES = ('divider', 'crossing', 'road edge')
PATH_COLORS = ('#1f78b4', '#e31a1c', '#ff9f1c', '#6a3d9a')
EGO_SIZE = (1.85, 4.084)  # width, length (m) of the nuScenes car
EGO_AHEAD = 0.5  # of the LiDAR lies the car's centre (m), as the collision metric has it


@dataclass(frozen=True)
class Scene:
    """What is drawn below the paths of one frame.

    Attributes:
        map_lines: (class, points (n, 2)) per map element; classes count as in ``MAP_NAMES``.
        footprints: (N, 4, 2) corners of the agents' boxes.
        title: one line.
    """

    map_lines: Sequence[tuple[int, np.ndarray]] = ()
    footprints: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 2)))
    title: str = ''


def footprints(boxes: np.ndarray) -> np.ndarray:
    """Corners (N, 4, 2) on the ground of VAD boxes (N, 7+): front left, front right, rear right, rear left."""
    boxes = np.asarray(boxes, dtype=np.float64)
    heading = yaw_to_heading(boxes[:, 6])
    along = np.stack([np.cos(heading), np.sin(heading)], -1) * boxes[:, 4:5] / 2
    left = np.stack([-np.sin(heading), np.cos(heading)], -1) * boxes[:, 3:4] / 2
    center = boxes[:, :2]
    return np.stack([center + along + left, center + along - left, center - along - left, center - along + left], 1)


def plot_paths(
    path: Path,
    scenes: Sequence[Scene],
    paths: Sequence[Mapping[str, np.ndarray]],
    extent: tuple[float, float, float, float] = (-15.0, -30.0, 15.0, 30.0),
    caption: str = '',
) -> None:
    """Draw frames side by side, each with its paths over the bird's-eye view, and write one PNG.

    Args:
        path: the picture to write.
        scenes: one per frame.
        paths: per frame, name -> way points (T, 2); the same name has the same colour in every frame. The name
            'driven' is the recorded path and drawn in black below the others.
        extent: x_min, y_min, x_max, y_max.
        caption: one line under the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(scenes), 7.2), layout='constrained')
    figure.get_layout_engine().set(h_pad=0.12)
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(name for frame in paths for name in frame if name != 'driven'))
    for column, (scene, frame) in enumerate(zip(scenes, paths)):
        axes = figure.add_subplot(1, len(scenes), column + 1)
        axes.set(xlim=(extent[0], extent[2]), ylim=(extent[1], extent[3]), aspect='equal', title=scene.title)
        axes.set_xlabel('x, right (m)')
        if column == 0:
            axes.set_ylabel('y, forward (m)')
        axes.set_facecolor('#f7f7f7')
        for kind, points in scene.map_lines:
            axes.plot(points[:, 0], points[:, 1], color=MAP_COLORS[kind], lw=1.2, zorder=1)
        for corners in scene.footprints:
            axes.fill(corners[:, 0], corners[:, 1], fc='#bdbdbd', ec='#525252', lw=0.8, zorder=2)
        width, length = EGO_SIZE
        axes.fill(
            [-width / 2, width / 2, width / 2, -width / 2],
            [EGO_AHEAD - length / 2] * 2 + [EGO_AHEAD + length / 2] * 2,
            fc='#2b2b2b',
            zorder=3,
        )
        for name, points in frame.items():
            points = np.vstack([[0.0, 0.0], points])
            style = dict(color='black', lw=5, alpha=0.35, zorder=4)
            if name != 'driven':
                style = dict(color=PATH_COLORS[names.index(name) % len(PATH_COLORS)], marker='o', ms=4, lw=1.8)
                style['zorder'] = 5 + names.index(name)
            axes.plot(points[:, 0], points[:, 1], label=name, **style)
    figure.legend(*_legend(names, scenes, paths), loc='outside lower center', ncols=4, frameon=False, title=caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, 'wb') as stream:
        figure.savefig(stream, format='png', dpi=110)


def _legend(
    names: Sequence[str], scenes: Sequence[Scene], paths: Sequence[Mapping[str, np.ndarray]]
) -> tuple[list, list[str]]:
    """Handles and labels of everything that is in the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, object] = {}
    if any('driven' in frame for frame in paths):
        entries['driven'] = Line2D([], [], color='black', lw=5, alpha=0.35)
    for name, color in zip(names, PATH_COLORS * len(names)):
        entries[name] = Line2D([], [], color=color, marker='o', ms=4)
    if any(len(scene.footprints) for scene in scenes):
        entries['agent'] = Patch(fc='#bdbdbd', ec='#525252')
    for kind in sorted({kind for scene in scenes for kind, _ in scene.map_lines}):
        entries[MAP_NAMES[kind]] = Line2D([], [], color=MAP_COLORS[kind])
    return list(entries.values()), list(entries)
