"""The metric that a Runner evaluates VAD with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet3d.registry import METRICS
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from vadslim.cli import UserError
from vadslim.vad.results import ResultsWriter, sample_results

from . import map, motion, planning  # noqa: F401, each adds its task
from .detection import DetectionTask
from .task import TASKS, Task


@METRICS.register_module()
class VADNuScenesMetric(BaseMetric):
    """Evaluates VAD's predictions sample by sample and sums up over all ranks.

    Samples are known by their ``sample_idx``: one that several ranks have seen (samplers fill up the last batch)
    counts once, and ranks may hold different numbers of samples, as they do when scenes are kept whole.

    Args:
        tasks: names of what is evaluated, or configs ``dict(type=name, ...)`` with a task's arguments.
        results_dir: a folder; the predictions are written to ``results_nusc.json`` in it.
        collect_device: passed to BaseMetric; results are small and gathered as objects either way.
        prefix: put before the metrics' names with a slash. By default the names are those of the original.
    """

    default_prefix = ''

    def __init__(
        self,
        tasks: Sequence[str | dict] = ('detection', 'map', 'motion', 'planning'),
        results_dir: str | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.tasks: list[Task] = [_build(task) for task in tasks]
        self.results_dir = results_dir
        self._writer: ResultsWriter | None = None
        self._detection = next((task for task in self.tasks if isinstance(task, DetectionTask)), DetectionTask())

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        """The data set's ``metainfo``. Tasks that need it say now what is missing, before the network runs."""
        self._dataset_meta = meta
        self._detection.classes = meta['classes']
        for task in self.tasks:
            if hasattr(task, 'prepare'):
                task.prepare(meta)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Scores a batch; see the tasks for what they read of a sample."""
        for sample in data_samples:
            scores = {task.name: task.score(sample) for task in self.tasks}
            self.results.append((str(sample['sample_idx']), scores))
            if self.results_dir:
                self._writer = self._writer or ResultsWriter(self.results_dir)
                detections = scores.get('detection') or self._detection.score(sample)
                self._writer.add(detections.token, sample_results(sample, detections))

    def evaluate(self, size: int) -> dict[str, float]:
        """The metrics over the samples of all ranks, the same on every rank.

        Args:
            size: number of samples of the data set; another number of evaluated ones is logged as a warning.
        """
        if self.results_dir:
            writer, self._writer = self._writer or ResultsWriter(self.results_dir), None
            MMLogger.get_current_instance().info(f'written: {writer.finish()}')
        unique = dict(result for results in all_gather_object(self.results) for result in results)
        self.results.clear()
        if len(unique) != size:
            MMLogger.get_current_instance().warning(
                f'{type(self).__name__}: {len(unique)} samples were evaluated, the data set has {size}'
            )
        metrics: dict[str, float] = {}
        if is_main_process():  # the tables of nuScenes fill gigabytes; once is enough
            metrics = self.compute_metrics([unique[key] for key in sorted(unique)])
        shared = [metrics]
        broadcast_object_list(shared)
        (metrics,) = shared
        return {f'{self.prefix}/{name}': value for name, value in metrics.items()} if self.prefix else metrics

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The metrics of all tasks from the scores of distinct samples, ``{task name: score}`` each."""
        metrics: dict[str, float] = {}
        for task in self.tasks:
            metrics |= task.summarize([result[task.name] for result in results])
        return metrics

    def write_results(self, folder: str | Path, only: bool = False) -> None:
        """Asks for a result file in ``folder``, which is made; with ``only``, for nothing else."""
        self.results_dir = str(folder)
        self._writer = ResultsWriter(folder)
        if only:
            self.tasks = []


def _build(task: str | dict) -> Task:
    cfg = {'type': task} if isinstance(task, str) else dict(task)
    name = cfg.pop('type', None)
    if name not in TASKS:
        raise UserError(f'VADNuScenesMetric: unknown task {name!r}, allowed: {", ".join(sorted(TASKS))}')
    return TASKS[name](**cfg)
