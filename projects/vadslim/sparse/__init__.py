"""Sparse training: IMP, Refill and RSST as functions of weights and masks, and what enters the optimizer's step.

weights = prunable_weights(model)
masks = imp(weights, dense_masks(weights), rate=0.2)
case = cases(masks, refill(masks, row_sums(weights, masks)))
"""

from .criteria import CRITERIA, channel_scores, weight_scores
from .imp import SCOPES, imp, layer_rates, progressive_rate
from .masks import (
    VIT_LAYERS,
    Masks,
    SparseError,
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
    'Regrouped',
    'SparseError',
    'UnitChoice',
    'UnitLayer',
    'cases',
    'channel_scores',
    'check_stable',
    'dense_masks',
    'densities',
    'density',
    'dynamic_scale',
    'fill_back',
    'find_units',
    'finish',
    'imp',
    'kept_channels',
    'kept_units',
    'largest',
    'layer_rates',
    'level_progress',
    'masked',
    'penalty_factor',
    'progressive_rate',
    'prunable_weights',
    'refill',
    'regroup',
    'regroup_lines',
    'remain_weight',
    'row_sums',
    'sparsity_lines',
    'start',
    'unit_scores',
    'units_left',
    'upstream_factor',
    'weight_scores',
]
