"""Pictures of what a network sees, should find, and finds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ...cli import UserError
from ...files import atomic_write
from ...registry import HOOKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_END, _JOINT = np.array([0.85, 0.1, 0.1]), np.array([0.1, 0.3, 0.9])


@HOOKS.register_module()
class InkPictureHook(Hook):
    """Draw the first images of a validation to ``pictures/epoch_N.png`` in the work dir; see :func:`draw`.

    Order: any; it takes what the validation has computed, and draws no random numbers.

    Args:
        interval: epochs from picture to picture; after the last epoch there is one too.
        count: images in a picture.

    Raises:
        UserError: a number is below 1.
    """

    def __init__(self, interval: int = 2, count: int = 7) -> None:
        if min(interval, count) < 1:
            raise UserError(f'InkPictureHook: interval {interval}, count {count}: at least 1')
        self.interval, self.count = interval, count
        self._samples: list[dict] = []

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin anew."""
        self._samples = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[dict] | None = None
    ) -> None:
        """Keep the first samples."""
        missing = self.count - len(self._samples)
        if missing > 0 and is_main_process() and self._is_due(runner):
            self._samples += list(outputs or ())[:missing]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw them."""
        samples, self._samples = self._samples, []
        if not samples:
            return
        path = Path(runner.work_dir) / 'pictures' / f'epoch_{runner.epoch}.png'
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path, 'wb') as file:
                draw(samples).savefig(file, format='png')
        except OSError as error:
            runner.logger.warning(f'{path}: cannot be written: {error.strerror}')  # the training is worth more

    def _is_due(self, runner: Runner) -> bool:
        return runner.epoch % self.interval == 0 or runner.epoch == runner.max_epochs


def draw(samples: Sequence[Mapping[str, Any]]) -> 'Figure':
    """Draw input, target and prediction of each sample side by side.

    Skeletons are black, stroke ends red, joints blue. With heads for width and offset two more pictures show the
    strokes that target and prediction describe: at each pixel of the skeleton a dash of the stroke's width, along
    its tangent and through its sub-pixel place.

    Args:
        samples: of :class:`InkNet` in mode ``predict``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dense = 'offset' in samples[0]['maps']
    titles = ['input', 'target', 'prediction', *(['target strokes', 'predicted strokes'] if dense else [])]
    figure = Figure(figsize=(2 * len(titles), 2 * len(samples) + 0.3), dpi=80, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(samples), len(titles), squeeze=False)
    for row, sample in zip(grid, samples):
        target, predicted = _arrays(sample['targets']), _arrays(sample['maps'])
        row[0].imshow(1 - _arrays({'image': sample['image']})['image'][0], cmap='gray', vmin=0, vmax=1)
        row[1].imshow(colours({name: target[name] for name in predicted}))
        row[2].imshow(colours(predicted))
        if dense:
            _strokes(row[3], target)
            _strokes(row[4], predicted)
        row[0].set_ylabel(f'stage {int(sample["stage"])}' if 'stage' in sample else '')
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, title in zip(grid[0], titles):
        axes.set_title(title, fontsize=10)
    return figure


def _arrays(maps: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().float().cpu().numpy() for name, value in maps.items()}


def colours(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Skeleton (1, H, W) and, if there, key points (2, H, W), both 0 to 1 -> RGB (H, W, 3), 0 to 1."""
    picture = np.repeat(1 - maps['skeleton'][0][..., None], 3, 2)
    for heat, colour in zip(maps.get('keypoints', ()), (_END, _JOINT)):
        picture += np.clip(heat, 0, 1)[..., None] * (colour - picture)
    return np.clip(picture, 0, 1)


def dashes(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Get the strokes that maps describe.

    Args:
        maps: ``skeleton``, ``offset``, ``tangent`` and ``width``, (C, H, W) each.

    Returns:
        (N, 4, 2): for each pixel of the skeleton the corners of a rectangle, x and y in pixels: 1.4 long, as wide as
        the stroke, along the tangent, its middle at the sub-pixel place.
    """
    rows, columns = np.nonzero(maps['skeleton'][0] > 0.5)
    middles = np.stack([columns, rows], 1) + maps['offset'][:, rows, columns].T
    angles = np.arctan2(*maps['tangent'][::-1, rows, columns]) / 2
    along = 0.7 * np.stack([np.cos(angles), np.sin(angles)], 1)
    across = maps['width'][0, rows, columns][:, None] / 2 * np.stack([-np.sin(angles), np.cos(angles)], 1)
    corners = [middles + along + across, middles + along - across, middles - along - across, middles - along + across]
    return np.stack(corners, 1)


def _strokes(axes: 'Axes', maps: Mapping[str, np.ndarray]) -> None:
    from matplotlib.collections import PolyCollection

    axes.add_collection(PolyCollection(dashes(maps), facecolors='k', edgecolors='none'))
    size = maps['skeleton'].shape[-1]
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_aspect('equal')
