"""Structured pruning: find the Groups of a model, score their units, choose, slim; and the proof that it was
right.

groups = find_groups(model, example)
pruner = StructuredPruner(ratio=0.3)
kept = pruner.plan(model, groups)
structure = make_structure(model, groups, kept)
slim = resize(model, structure)
structure.save('structure.json')

For half the multiply-accumulates in place of a ratio:

cost = vadslim.analysis.Macs(model, lambda m: m(example))
kept = StructuredPruner().search(model, groups, cost, 0.5).kept

Layers and grids: ``make_structure(model, groups, kept, edits=[depth_edit(model, 'decoder', kept=[0, 2])])``.
"""

from .activation import Activation
from .allocation import Allocation, Global, Isomorphic, Uniform, topology
from .attention import SlimMultiheadAttention, by_dim, projections
from .borders import Borders, declares_borders
from .composing import compose
from .editing import (
    Choice,
    Resizable,
    Stack,
    check_edit,
    declares_edits,
    depth_edit,
    find_edits,
    find_grids,
    find_stacks,
    grid_edit,
    skip_layers,
)
from .edits import EDITS, EditError
from .find import Trace, declares_traces, find_groups, run_example
from .fused_attention import SlimFusedAttention
from .gradients import Fisher, Hessian, PlanningTaylor, Taylor
from .grid import output_changes
from .group import Attr, Group, GroupError, Index, Slice, blocks, check_groups, declares_groups
from .hiding import hide_keys, hides_units
from .importance import FPGM, L1, L2, LAMP, BNScale, Importance, Random
from .levels import SCHEDULES, Level
from .mask import mask
from .optimizer_state import optimizer_param_names, slice_optimizer_state
from .passes import ScoringError
from .proof import ProofError, check_group, wrong_groups
from .pruner import PatternError, PlanRow, StructuredPruner, params_saved
from .recalibration import Recalibration, recalibrate
from .rules import Origin, RuleError, Rules, load_rules, rules_origin
from .slim import follows_tensors, resize, slice_state_dict
from .structure import Structure, StructureError, architecture_hash, make_structure
from .target import Cost, OutOfReachError, Solution, TargetError, parse_goal, savings, search, solve

__all__ = [
    'EDITS',
    'FPGM',
    'L1',
    'L2',
    'LAMP',
    'Activation',
    'Allocation',
    'Attr',
    'BNScale',
    'Borders',
    'Choice',
    'Cost',
    'EditError',
    'Fisher',
    'Global',
    'Group',
    'GroupError',
    'Hessian',
    'Importance',
    'Index',
    'Isomorphic',
    'OutOfReachError',
    'PatternError',
    'PlanRow',
    'PlanningTaylor',
    'ProofError',
    'Random',
    'Recalibration',
    'Resizable',
    'RuleError',
    'Rules',
    'Origin',
    'ScoringError',
    'Slice',
    'SlimFusedAttention',
    'SlimMultiheadAttention',
    'Solution',
    'Stack',
    'Structure',
    'StructureError',
    'StructuredPruner',
    'TargetError',
    'Taylor',
    'Trace',
    'Uniform',
    'architecture_hash',
    'blocks',
    'by_dim',
    'check_edit',
    'check_group',
    'check_groups',
    'compose',
    'declares_borders',
    'declares_edits',
    'declares_groups',
    'declares_traces',
    'depth_edit',
    'find_edits',
    'find_grids',
    'find_groups',
    'find_stacks',
    'follows_tensors',
    'grid_edit',
    'hide_keys',
    'hides_units',
    'Level',
    'SCHEDULES',
    'load_rules',
    'rules_origin',
    'make_structure',
    'mask',
    'optimizer_param_names',
    'output_changes',
    'params_saved',
    'parse_goal',
    'projections',
    'recalibrate',
    'resize',
    'run_example',
    'savings',
    'search',
    'skip_layers',
    'slice_optimizer_state',
    'slice_state_dict',
    'solve',
    'topology',
    'wrong_groups',
]
