"""Metrics of VAD on nuScenes: a task per file, put together by :class:`VADNuScenesMetric`."""

from .detection import DetectionTask
from .motion import MotionTask
from .nuscenes_metric import VADNuScenesMetric
from .planning import PlanningTask
from .task import TASKS, Task, register_task

__all__ = ['TASKS', 'DetectionTask', 'MotionTask', 'PlanningTask', 'Task', 'VADNuScenesMetric', 'register_task']
