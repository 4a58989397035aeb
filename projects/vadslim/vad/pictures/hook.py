"""Pictures of predictions among the curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet3d.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .packed import draw_packed
from .view import predicted, truth


@HOOKS.register_module()
class VADVisualizationHook(Hook):
    """Sends pictures of validation and test frames to the back ends of the config's ``visualizer``.

    One frame is drawn as cameras with the predicted boxes and plan, prediction and ground truth, under the name
    ``val_0050`` (the number counts frames of this process; with several, only the first draws). The step is the
    number of training iterations, so that a back end shows how a frame's prediction changes.

    Order: any; predictions are only read.

    Args:
        interval: every ``interval``-th frame is drawn.
        draw_val: whether to draw in validation.
        draw_test: whether to draw in tests.
        score_thr: least score of a drawn agent.
        map_score_thr: least score of a drawn map element.
        dpi: a picture is 1392 pixels wide at 100.
    """

    def __init__(
        self,
        interval: int = 50,
        draw_val: bool = True,
        draw_test: bool = True,
        score_thr: float = 0.3,
        map_score_thr: float = 0.4,
        dpi: int = 100,
    ) -> None:
        if interval < 1:
            raise ValueError(f'VADVisualizationHook: interval={interval}, at least 1 is needed')
        if dpi < 30:
            raise ValueError(f'VADVisualizationHook: dpi={dpi}, at least 30 is needed')
        self.interval = interval
        self.draw_val = draw_val
        self.draw_test = draw_test
        self.thresholds = (score_thr, map_score_thr)
        self.dpi = dpi

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw one batch of validation."""
        if self.draw_val:
            self._draw(runner, 'val', runner.val_dataloader, batch_idx, data_batch, outputs)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw one batch of a test."""
        if self.draw_test:
            self._draw(runner, 'test', runner.test_dataloader, batch_idx, data_batch, outputs)

    def _draw(self, runner: Runner, mode: str, loader: Any, batch_idx: int, batch: Any, outputs: Any) -> None:
        if not is_main_process() or not batch or not outputs:
            return
        classes, extent = loader.dataset.metainfo['classes'], loader.dataset.extent
        for i, (images, sample) in enumerate(zip(batch['inputs']['img'], outputs)):
            number = batch_idx * len(outputs) + i
            if number % self.interval:
                continue
            sample = sample.to_dict()
            views = [predicted(sample, *self.thresholds), *([truth(sample)] if 'gt_ego' in sample else [])]
            picture = draw_packed(images, sample, views, classes, extent, dpi=self.dpi)
            runner.visualizer.add_image(f'{mode}_{number:04d}', picture, step=runner.iter)
