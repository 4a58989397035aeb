"""Map elements as point sequences: what the map head learns from.

A map element is a polyline; where it starts (closed lines) or which way it runs (open lines) has no
meaning, so the target holds every equivalent ordering and the assigner takes the cheapest. The orderings
are those of VAD's 'v2' rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
import torch
from mmengine.structures import InstanceData
from shapely import LineString

PADDING = -10000.0


def sample_line(line: LineString, num_points: int) -> np.ndarray:
    """(num_points, 2) points at equal distances along ``line``, both ends included."""
    points = shapely.line_interpolate_point(line, np.linspace(0, line.length, num_points))
    return shapely.get_coordinates(points)


def orderings(line: LineString, num_points: int) -> np.ndarray:
    """Every equivalent ordering of a line, sampled.

    An open line gives itself and its reverse. A closed one is started at each of its vertices, in the
    order of the rolls 0, 1, ...; of more than ``num_points - 1`` starts that many are drawn (NumPy's
    global generator).

    Returns:
        (S, num_points, 2), metres, 1 <= S <= num_points - 1.
    """
    vertices = shapely.get_coordinates(line)
    if not np.array_equal(vertices[0], vertices[-1]):
        points = sample_line(line, num_points)
        return np.stack([points, points[::-1]])
    ring = vertices[:-1]
    starts = np.arange(len(ring))
    if len(starts) > num_points - 1:
        starts = np.random.choice(len(starts), num_points - 1, replace=False)  # noqa: NPY002
    rolled = (np.roll(ring, start, axis=0) for start in starts)
    return np.stack([sample_line(LineString(np.vstack([r, r[:1]])), num_points) for r in rolled])


def map_targets(
    lines: Sequence[LineString],
    labels: Sequence[int],
    patch_size: tuple[float, float],
    num_points: int = 20,
) -> InstanceData:
    """The map ground truth of one frame.

    Args:
        lines: M polylines in the LiDAR frame, metres.
        labels: M class indices.
        patch_size: (extent along y, extent along x) of the perception range around the LiDAR, metres.
        num_points: points per line, N.

    Returns:
        InstanceData with labels (M,) int64, pts (M, N - 1, N, 2) float32 (missing orderings are -10000)
        and bboxes (M, 4) float32 as x1, y1, x2, y2; coordinates are clamped to the patch.
    """
    limit = np.array([patch_size[1] / 2, patch_size[0] / 2])
    pts = np.full((len(lines), num_points - 1, num_points, 2), PADDING, dtype=np.float32)
    bboxes = np.zeros((len(lines), 4), dtype=np.float32)
    for i, line in enumerate(lines):
        sampled = orderings(line, num_points)
        pts[i, : len(sampled)] = np.clip(sampled, -limit, limit)
        bboxes[i] = np.clip(line.bounds, -np.tile(limit, 2), np.tile(limit, 2))
    return InstanceData(
        labels=torch.tensor(list(labels), dtype=torch.int64),
        pts=torch.from_numpy(pts),
        bboxes=torch.from_numpy(bboxes),
    )
