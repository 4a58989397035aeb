"""Everything that plugs into MMEngine's Runner; works with any model, without mmcv and mmdet."""

from .checkpoint_hook import CheckpointHook, config_from_text, config_to_text
from .distill_hook import DistillHook, distill_config
from .fine_tune_hook import FineTuneHook, Start, choose_start
from .fine_tune_schedule import FineTuneLR, fine_tune_config, fine_tune_schedule
from .group_rsst_hook import GroupRSSTHook
from .level_hook import LevelHook
from .random_state_hook import RandomStateHook
from .slim_model import SlimModel, read_structure
from .sparse_hook import SparseHook
from .structure_hook import StructureHook

__all__ = [
    'CheckpointHook',
    'DistillHook',
    'FineTuneHook',
    'FineTuneLR',
    'GroupRSSTHook',
    'LevelHook',
    'RandomStateHook',
    'SlimModel',
    'SparseHook',
    'Start',
    'StructureHook',
    'choose_start',
    'config_from_text',
    'config_to_text',
    'distill_config',
    'fine_tune_config',
    'fine_tune_schedule',
    'read_structure',
]
