"""Ink: strokes of handwriting to vectors, trained in stages; importing it registers what its configs name.

First a network learns from images most of which is hidden how strokes run (structural), then it gets the heads that
tell all about them (dense). The images are drawn by :mod:`.strokes`.
"""

from .dataset import CurriculumHook, Strokes
from .metrics import SkeletonMetric
from .model import NEW_IN_DENSE, InkNet
from .pictures import InkPictureHook
from .recipe import to_config
from .schedule import OneCycleLR
from .strokes import render, sample

__all__ = [
    'NEW_IN_DENSE',
    'CurriculumHook',
    'InkNet',
    'InkPictureHook',
    'OneCycleLR',
    'SkeletonMetric',
    'Strokes',
    'render',
    'sample',
    'to_config',
]
