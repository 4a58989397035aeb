"""Sparse training: IMP, Refill and RSST as functions of weights and masks, and what enters the optimizer's step.

weights = prunable_weights(model)
masks = imp(weights, dense_masks(weights), rate=0.2)
case = cases(masks, refill(masks, row_sums(weights, masks)))
"""

from .companions import companion_masks, find_companions, parameters_of, with_companions
from .criteria import CRITERIA, channel_scores, weight_scores
from .files import load_masks, save_masks
from .imp import SCOPES, imp, layer_rates, progressive_rate
from .masks import (
    VIT_LAYERS,
    Masks,
    SparseError,
    check_masks,
    dense_masks,
    densities,
    density,
    largest,
    masked,
    prunable_weights,
    remain_weight,
    row_sums,
)
from .penalty import HardMask, Penalty
from .refill import kept_channels, refill
from .removal import Removal, dead_units, difference, held_by_companions, remove_dead
from .rsst import Cases, cases, finish, start
from .schedules import SCHEDULES, check_stable, dynamic_scale, level_progress, penalty_factor, upstream_factor
from .units import (
    SORTINGS,
    TARGETS,
    Regrouped,
    UnitChoice,
    UnitLayer,
    fill_back,
    find_units,
    kept_units,
    regroup,
    unit_scores,
    units_left,
)
from .vit_report import regroup_lines, sparsity_lines

__all__ = [
    'CRITERIA',
    'SCHEDULES',
    'SCOPES',
    'SORTINGS',
    'TARGETS',
    'VIT_LAYERS',
    'Cases',
    'HardMask',
    'Masks',
    'Penalty',
    'Removal',
    'Regrouped',
    'SparseError',
    'UnitChoice',
    'UnitLayer',
    'cases',
    'check_masks',
    'channel_scores',
    'check_stable',
    'companion_masks',
    'dead_units',
    'dense_masks',
    'densities',
    'density',
    'difference',
    'dynamic_scale',
    'find_companions',
    'fill_back',
    'find_units',
    'finish',
    'held_by_companions',
    'imp',
    'kept_channels',
    'kept_units',
    'largest',
    'layer_rates',
    'level_progress',
    'load_masks',
    'masked',
    'parameters_of',
    'penalty_factor',
    'progressive_rate',
    'prunable_weights',
    'refill',
    'regroup',
    'regroup_lines',
    'remain_weight',
    'remove_dead',
    'row_sums',
    'save_masks',
    'sparsity_lines',
    'start',
    'unit_scores',
    'units_left',
    'upstream_factor',
    'with_companions',
    'weight_scores',
]
