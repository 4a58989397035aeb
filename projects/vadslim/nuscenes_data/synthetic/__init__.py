"""A small, deterministic dataset in the nuScenes v1.0-mini schema that nobody has to download.

``generate`` writes it; the unmodified nuscenes-devkit opens it (tables, map expansion, CAN bus).
"""

from .build import Result, generate
from .settings import Settings
from .tasks import simulate

__all__ = ['Result', 'Settings', 'generate', 'simulate']
