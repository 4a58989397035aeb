"""Everything that plugs into MMEngine's Runner; works with any model, without mmcv and mmdet."""

from .checkpoint_hook import CheckpointHook
from .distill_hook import DistillHook, distill_config
from .fine_tune_hook import FineTuneHook, Start, choose_start
from .fine_tune_schedule import FineTuneLR, fine_tune_config, fine_tune_schedule
from .finite_hook import FiniteHook
from .group_rsst_hook import GroupRSSTHook
from .level_hook import LevelHook
from .progress_hook import ProgressHook
from .random_state_hook import RandomStateHook
from .slim_model import SlimModel, read_structure
from .sparse_hook import SparseHook
from .stage_checkpoint_hook import StageCheckpointHook
from .structure_hook import StructureHook
from .transfer import Transfer, compare_architecture

__all__ = [
    'CheckpointHook',
    'DistillHook',
    'FineTuneHook',
    'FineTuneLR',
    'FiniteHook',
    'GroupRSSTHook',
    'LevelHook',
    'ProgressHook',
    'RandomStateHook',
    'SlimModel',
    'SparseHook',
    'StageCheckpointHook',
    'Start',
    'StructureHook',
    'Transfer',
    'choose_start',
    'compare_architecture',
    'distill_config',
    'fine_tune_config',
    'fine_tune_schedule',
    'read_structure',
]
