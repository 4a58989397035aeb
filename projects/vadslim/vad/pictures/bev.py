"""One bird's-eye view. All coordinates are metres in the LiDAR frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vadslim.vad.visualization import EGO_AHEAD, EGO_SIZE, MAP_COLORS, footprints

from .view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRIVEN_COLOR = '#222222'
MOVES = 1.0  # agents that go less far (m) have no future drawn
UNLIKELY = 0.6  # guesses below this part of the best one's score are faint


def draw_view(
    axes: Axes,
    view: View,
    agent_colors: Sequence[str],
    plan_color: str,
    extent: tuple[float, float, float, float],
    driven: np.ndarray | None = None,
) -> None:
    """Draw a view into matplotlib's axes.

    Args:
        axes: loses its frame's ticks.
        view: what is drawn.
        agent_colors: by class.
        plan_color: of a planned path; a driven one is black.
        extent: x_min, y_min, x_max, y_max.
        driven: (T, 2) recorded path to compare the plan with.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    axes.set(xlim=(extent[0], extent[2]), ylim=(extent[1], extent[3]), aspect='equal', xticks=[], yticks=[])
    axes.set_facecolor('#fbfbfb')
    for spine in axes.spines.values():
        spine.set(color='#b5b5b5', lw=0.7)
    axes.set_title(view.title, fontsize=9, pad=4)
    kinds, lines = [kind for kind, _ in view.map_lines], [points for _, points in view.map_lines]
    axes.add_collection(
        LineCollection(lines, colors=[MAP_COLORS[kind] for kind in kinds], linewidths=1.1, capstyle='round', zorder=1)
    )

    colors = [agent_colors[kind] for kind in view.kinds]
    shapes = footprints(view.boxes)
    for alpha, guesses in _futures(view):
        points = [guess for _, guess in guesses]
        style = dict(colors=[colors[agent] for agent, _ in guesses], alpha=alpha, capstyle='round')
        axes.add_collection(LineCollection(points, linewidths=1.3, zorder=2, **style))
        if alpha == 1 and points:
            ends = np.array([guess[-1] for guess in points])
            axes.scatter(*ends.T, s=7, c=style['colors'], linewidths=0, zorder=2)
    axes.add_collection(PolyCollection(shapes, facecolors=_light(colors), edgecolors=colors, linewidths=0.9, zorder=3))
    noses = np.stack([shapes.mean(1), (shapes[:, 0] + shapes[:, 1]) / 2], 1)
    axes.add_collection(LineCollection(noses, colors=colors, linewidths=0.9, zorder=3))

    if driven is not None:
        axes.plot(*_from_here(driven).T, color=DRIVEN_COLOR, lw=1.1, ls=(0, (2.5, 1.5)), zorder=6)
    if view.plan is not None:
        color = DRIVEN_COLOR if view.driven else plan_color
        axes.plot(*_from_here(view.plan).T, color=color, lw=2.2, solid_capstyle='round', zorder=5)
        axes.scatter(*view.plan.T, s=11, c='white', edgecolors=color, linewidths=0.9, zorder=5.5)
    _draw_car(axes)


def _draw_car(axes: Axes) -> None:
    """The ego vehicle, facing up."""
    from matplotlib.patches import FancyBboxPatch, Polygon

    width, length = EGO_SIZE
    corner, rounding = 0.35, 0.35
    axes.add_patch(
        FancyBboxPatch(
            (-width / 2 + corner, EGO_AHEAD - length / 2 + corner),
            width - 2 * corner,
            length - 2 * corner,
            boxstyle=f'round,pad={corner},rounding_size={rounding}',
            fc='#2b2d42',
            ec='white',
            lw=0.6,
            zorder=7,
        )
    )
    glass = np.array([[-0.6, 0.75], [0.6, 0.75], [0.72, 1.45], [-0.72, 1.45]]) + (0, EGO_AHEAD - 0.5)
    axes.add_patch(Polygon(glass, fc='#cfd8e3', ec='none', zorder=7.1))


def _futures(view: View) -> list[tuple[float, list[tuple[int, np.ndarray]]]]:
    """Futures from the agents' places on, (agent, points): first the faint guesses, then the likely ones."""
    likely, faint = [], []
    for agent, (guesses, scores) in enumerate(zip(view.futures, view.future_scores)):
        best = np.nanmax(scores, initial=0.0)
        for guess, score in zip(guesses, scores):
            known = guess[np.isfinite(guess).all(-1)]
            if not len(known) or np.linalg.norm(known[-1] - view.boxes[agent, :2]) < MOVES:
                continue
            path = np.vstack([view.boxes[agent, :2], known])
            (likely if score >= best * UNLIKELY else faint).append((agent, path))
    return [(0.25, faint), (1.0, likely)]


def _from_here(path: np.ndarray) -> np.ndarray:
    return np.vstack([[0.0, 0.0], path])


def _light(colors: Sequence[str]) -> list[tuple[float, float, float, float]]:
    from matplotlib.colors import to_rgba

    return [to_rgba(color, 0.3) for color in colors]
