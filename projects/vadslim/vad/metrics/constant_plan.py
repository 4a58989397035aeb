"""The best plan that looks at nothing: for each command always the same path. A network has to beat it.

Its steps are the medians of the steps that were driven under that command in the training set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .planning import STEPS, PlanningTask

Ego = Mapping[str, np.ndarray]
"""``fut_trajs`` (6, 2) steps in metres, ``fut_masks`` (6,) which of them are known, ``fut_cmd`` (3,) one-hot."""


def constant_plans(frames: Iterable[Ego]) -> np.ndarray:
    """The plan of each command.

    Args:
        frames: the ego futures of the training set.

    Returns:
        (3, 6, 2) medians over the known steps, metres per step; zeros (stand still) for what was never seen.
    """
    plans = np.zeros((3, STEPS, 2), np.float32)
    frames = list(frames)
    steps = np.array([np.where(ego['fut_masks'][:, None] > 0, ego['fut_trajs'], np.nan) for ego in frames])
    commands = np.array([ego['fut_cmd'].argmax() for ego in frames])
    for command in range(3):
        known = steps[commands == command]
        for step in range(STEPS):
            seen = known[:, step][~np.isnan(known[:, step, 0])]
            if len(seen):
                plans[command, step] = np.median(seen, axis=0)
    return plans


def score_plans(plans: np.ndarray, frames: Iterable[tuple[Ego, bool]]) -> dict[str, float]:
    """L2 of constant plans, as :class:`PlanningTask` computes it of a network's.

    Args:
        plans: (3, 6, 2) metres per step.
        frames: the ego futures of the validation set, and whether each is known to its end.

    Returns:
        ``plan_L2_1s``, ``plan_L2_2s``, ``plan_L2_3s`` in metres.
    """
    task = PlanningTask()
    nobody = {'bboxes_3d': np.zeros((0, 9), np.float32), 'attr_labels': np.zeros((0, 34), np.float32)}
    scores = [
        task.score(
            {
                'pred_ego': {'fut_preds': plans},
                'gt_ego': ego,
                'gt_instances_3d': nobody,
                'fut_valid_flag': known,
            }
        )
        for ego, known in frames
    ]
    metrics = task.summarize(scores)
    return {name: metrics[name] for name in ('plan_L2_1s', 'plan_L2_2s', 'plan_L2_3s')}
