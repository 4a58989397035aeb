"""Handwriting made of numbers: stroke images and, for each pixel, what a vectoriser should find there.

Pure functions of numbers. Points are (x, y) in pixels, x to the right and y down; pixel (row i, column j) is the
square around (x, y) = (j, i) with its left and upper edges. A stroke is a chain of Bezier curves, walked along in
pieces so short that they pass for the curve; ink and targets are computed from distances to these pieces.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIZE = 64  # side of the images
SIGMA = 1.5  # of the key points' Gaussians, in pixels
STEP = 2.0  # length of a piece in pixels, at most; at a radius of 8 pixels it leaves the curve by 0.06
TARGETS = {'skeleton': 1, 'keypoints': 2, 'tangent': 2, 'width': 1, 'offset': 2}  # and their channels

# curriculum stage -> numbers (at least, at most) of strokes, and of segments per stroke
CURRICULUM = (
    ((1, 1), (1, 1)),  # one stroke
    ((1, 3), (1, 1)),  # strokes that know nothing of each other
    ((2, 5), (1, 1)),
    ((3, 8), (1, 1)),
    ((1, 1), (2, 3)),  # one stroke with corners
    ((1, 1), (3, 5)),
    ((1, 1), (4, 8)),
    ((1, 3), (1, 3)),  # both
    ((2, 4), (1, 4)),
    ((3, 6), (1, 5)),
)

_LOW, _HIGH = 5.0, SIZE - 6.0  # where ends and joints may lie
_WIDTHS = (1.5, 4.0)
_LENGTHS = {True: (14.0, 31.0), False: (10.0, 24.0)}  # of segments: the only one of its stroke, one of several
_CORNERS = (math.pi / 6, math.pi * 2 / 3)  # by how much a joint turns
_REACH = math.ceil(_WIDTHS[1] / 2 + 0.5 + STEP / 2 + 0.5)  # ink ends this far from the middle of a piece
_PADDED = SIZE + 2 * _REACH
_WINDOW = np.arange(-_REACH, _REACH + 1)


class Stroke(NamedTuple):
    """One line of the pen, of S segments.

    curves: (S, 4, 2) control points of cubic Bezier curves, each beginning where the last one ends. widths: (S + 1,)
    full widths in pixels at the ends of the segments, at most 4. ink: darkness, 0 to 1.
    """

    curves: np.ndarray
    widths: np.ndarray
    ink: float = 1.0


def sample(seed: int, stage: int, index: int) -> dict[str, np.ndarray]:
    """Draw one image and its targets; the same numbers give the same sample, anywhere and in any order.

    Args:
        seed: which stream of samples; at least 0.
        stage: curriculum stage, 0 to 9.
        index: place in the stream; at least 0.

    Returns:
        What :func:`render` gives.

    Raises:
        ValueError: there is no such stage.
    """
    return render(draw(seed, stage, index))


def draw(seed: int, stage: int, index: int) -> list[Stroke]:
    """Draw the strokes of a sample; see :func:`sample`."""
    if not 0 <= stage < len(CURRICULUM):
        raise ValueError(f'curriculum stage {stage}: there are 0 to {len(CURRICULUM) - 1}')
    rng = np.random.default_rng((seed, stage, index))
    (fewest, most), (shortest, longest) = CURRICULUM[stage]
    segments = rng.integers(shortest, longest + 1, rng.integers(fewest, most + 1))
    return [_stroke(rng.random((count + 1, 6)).tolist()) for count in segments]


def _stroke(random: list[list[float]]) -> Stroke:
    """Make a stroke of S segments out of S + 1 rows of 6 numbers between 0 and 1."""
    first, *rows = random
    x, y = _scale(first[0], _LOW, _HIGH), _scale(first[1], _LOW, _HIGH)
    heading, curves = _scale(first[2], -math.pi, math.pi), []
    for number, row in enumerate(rows):
        if number:
            heading += math.copysign(_scale(row[0], *_CORNERS), row[1] - 0.5)
        length = _scale(row[2], *_LENGTHS[len(rows) == 1])
        heading = _stay(x, y, heading, length)
        end_x, end_y = x + length * math.cos(heading), y + length * math.sin(heading)
        leaving, coming = heading + _scale(row[3], -0.9, 0.9), heading + _scale(row[4], -0.9, 0.9)
        third = length / 3
        inner = (
            (x + third * math.cos(leaving), y + third * math.sin(leaving)),
            (end_x - third * math.cos(coming), end_y - third * math.sin(coming)),
        )
        curves.append(((x, y), *inner, (end_x, end_y)))
        x, y, heading = end_x, end_y, coming
    widths = [_scale(row[5], *_WIDTHS) for row in random]
    return Stroke(np.clip(curves, 1, SIZE - 2), np.array(widths), _scale(first[3], 0.6, 1.0))


def _scale(number: float, low: float, high: float) -> float:
    return low + number * (high - low)


def _stay(x: float, y: float, heading: float, length: float) -> float:
    """Turn as little as it takes to stay on the paper: not, or by 1, -1, 2, -2 ... eighths of half a turn.

    One of these always does: of 16 directions one is within 11.25 degrees of the farthest corner's diagonal, and even
    from the middle 31 * cos(45 - 11.25 degrees) = 25.8 pixels to either side are on the paper.
    """
    for eighths in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8):
        angle = heading + eighths * math.pi / 8
        end_x, end_y = x + length * math.cos(angle), y + length * math.sin(angle)
        if _LOW <= end_x <= _HIGH and _LOW <= end_y <= _HIGH:
            return angle
    return angle


def render(strokes: Sequence[Stroke]) -> dict[str, np.ndarray]:
    """Draw strokes with anti-aliased edges, and compute their targets.

    Returns:
        float32 arrays of 64 x 64 pixels:

        - image (1, H, W): 0 paper to 1 ink. A pixel is covered by its distance to the edge of the ink, up to half a
          pixel to either side.
        - skeleton (1, H, W): 1 where a piece of a centre line comes nearest to the pixel's centre inside the pixel,
          else 0. The next three belong to the nearest of these points and are 0 off the skeleton.
        - tangent (2, H, W): cos and sin of twice the line's angle; a line has no direction.
        - width (1, H, W): full width of the stroke in pixels.
        - offset (2, H, W): x and y from the pixel's centre to the point, -0.5 to 0.5.
        - keypoints (2, H, W): ends, and joints of segments; a Gaussian around the pixel of each, exactly 1 there;
          where several overlap, the greatest.
    """
    image = np.zeros((1, _PADDED, _PADDED), np.float32)
    lines = {name: np.zeros((TARGETS[name], _PADDED, _PADDED), np.float32) for name in TARGETS if name != 'keypoints'}
    if strokes:
        counts = [len(stroke.curves) for stroke in strokes]
        curves = np.concatenate([stroke.curves for stroke in strokes])
        widths = np.concatenate([np.stack([stroke.widths[:-1], stroke.widths[1:]], 1) for stroke in strokes])
        pieces = _walk(curves, widths, np.repeat([stroke.ink for stroke in strokes], counts))
        _paint(image, lines, *pieces.astype(np.float32).T)
    ends = np.reshape([(stroke.curves[0, 0], stroke.curves[-1, 3]) for stroke in strokes], (-1, 2))
    joints = np.concatenate([np.empty((0, 2)), *(stroke.curves[1:, 0] for stroke in strokes)])
    paper = np.s_[:, _REACH:-_REACH, _REACH:-_REACH]
    sample = {name: np.ascontiguousarray(value[paper]) for name, value in {'image': image, **lines}.items()}
    return {**sample, 'keypoints': np.stack([heat_map(ends), heat_map(joints)])}


def _walk(curves: np.ndarray, widths: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Cut curves (S, 4, 2) into pieces.

    Returns:
        (P, 7): x and y where the piece begins, x and y from there to its end, half the width where it begins, what
        is added to that up to the end, ink.
    """
    sides = np.diff(curves, axis=1)
    lengths = np.sqrt((sides**2).sum(2)).sum(1)  # of the control polygon: not shorter than the curve's
    counts = np.maximum(np.ceil(lengths / STEP), 1).astype(np.int64)
    curve = np.repeat(np.arange(len(curves)), counts)
    begin = np.arange(len(curve)) - np.repeat(np.cumsum(counts) - counts, counts)
    t = np.stack([begin, begin + 1]) / counts[curve]  # (2, P)
    rest = 1 - t
    basis = np.stack([rest**3, 3 * t * rest**2, 3 * t**2 * rest, t**3])  # (4, 2, P)
    points = np.einsum('kep,pkc->epc', basis, curves[curve])
    half = (widths[curve, 0] * rest + widths[curve, 1] * t) / 2
    return np.column_stack([points[0], points[1] - points[0], half[0], half[1] - half[0], ink[curve]])


def _paint(image: np.ndarray, lines: dict[str, np.ndarray], *pieces: np.ndarray) -> None:
    """Fill the image (1, H, W) and the targets of the lines, padded; each piece sees the pixels around its middle."""
    x, y, along_x, along_y, half, change, ink = (column[:, None, None] for column in pieces)  # each (P, 1, 1)
    columns = np.clip(np.rint(x + along_x / 2), 0, SIZE - 1).astype(np.int64) + _WINDOW  # (P, 1, window)
    rows = np.clip(np.rint(y + along_y / 2), 0, SIZE - 1).astype(np.int64) + _WINDOW[:, None]  # (P, window, 1)
    there_x, there_y = columns.astype(np.float32) - x, rows.astype(np.float32) - y
    square = np.maximum(along_x**2 + along_y**2, np.float32(1e-12))
    t = np.clip(there_x * (along_x / square) + there_y * (along_y / square), 0, 1)  # (P, window, window)
    offset_x, offset_y = t * along_x - there_x, t * along_y - there_y  # from the pixel's centre to the nearest point
    distance = np.sqrt(offset_x * offset_x + offset_y * offset_y)
    covered = np.clip(half + t * change + np.float32(0.5) - distance, 0, 1) * ink
    flat = (rows + _REACH) * _PADDED + (columns + _REACH)
    touched = covered > 0
    np.maximum.at(image.reshape(-1), flat[touched], covered[touched])

    near = np.flatnonzero((offset_x >= -0.5) & (offset_x < 0.5) & (offset_y >= -0.5) & (offset_y < 0.5))
    near = near[np.argsort(-distance.reshape(-1)[near], kind='stable')]  # the nearest is written last and stays
    piece, pixel, t = near // len(_WINDOW) ** 2, flat.reshape(-1)[near], t.reshape(-1)[near]
    twice = 2 * np.arctan2(along_y, along_x).reshape(-1)[piece]
    width = 2 * (half.reshape(-1)[piece] + t * change.reshape(-1)[piece])
    values = {
        'skeleton': (1,),
        'tangent': (np.cos(twice), np.sin(twice)),
        'width': (width,),
        'offset': (offset_x.reshape(-1)[near], offset_y.reshape(-1)[near]),
    }
    for name, channels in values.items():
        for channel, value in zip(lines[name].reshape(len(channels), -1), channels):
            channel[pixel] = value


def heat_map(points: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Put a Gaussian of height 1 around the pixel of each point.

    Args:
        points: (N, 2) points on the paper; there may be none.
        sigma: in pixels.

    Returns:
        (64, 64) float32, the greatest of the Gaussians.
    """
    if not len(points):
        return np.zeros((SIZE, SIZE), np.float32)
    centres = np.clip(np.rint(points), 0, SIZE - 1)
    waves = np.exp(-((np.arange(SIZE) - centres[..., None]) ** 2) / (2 * sigma**2)).astype(np.float32)  # (N, 2, SIZE)
    return (waves[:, 1, :, None] * waves[:, 0, None, :]).max(0)
