"""Structured pruning: find the Groups of a model, score their units, choose, slim; and the proof that it was
right.

groups = find_groups(model, example)
pruner = StructuredPruner(ratio=0.3)
kept = pruner.plan(model, groups)
structure = make_structure(model, groups, kept)
slim = resize(model, structure)
structure.save('structure.json')
"""

from .allocation import Allocation, Global, Uniform
from .attention import SlimMultiheadAttention
from .find import Trace, declares_traces, find_groups, run_example
from .group import Attr, Group, GroupError, Index, Slice, blocks, check_groups, declares_groups
from .importance import L1, L2, BNScale, Importance, Random
from .mask import mask
from .optimizer_state import optimizer_param_names, slice_optimizer_state
from .proof import ProofError, check_group, wrong_groups
from .pruner import PatternError, PlanRow, StructuredPruner, params_saved
from .slim import follows_tensors, resize, slice_state_dict
from .structure import Structure, StructureError, architecture_hash, compose, make_structure

__all__ = [
    'L1',
    'L2',
    'Allocation',
    'Attr',
    'BNScale',
    'Global',
    'Group',
    'GroupError',
    'Importance',
    'Index',
    'PatternError',
    'PlanRow',
    'ProofError',
    'Random',
    'Slice',
    'SlimMultiheadAttention',
    'Structure',
    'StructureError',
    'StructuredPruner',
    'Trace',
    'Uniform',
    'architecture_hash',
    'blocks',
    'check_group',
    'check_groups',
    'compose',
    'declares_groups',
    'declares_traces',
    'find_groups',
    'follows_tensors',
    'make_structure',
    'mask',
    'optimizer_param_names',
    'params_saved',
    'resize',
    'run_example',
    'slice_optimizer_state',
    'slice_state_dict',
    'wrong_groups',
]
