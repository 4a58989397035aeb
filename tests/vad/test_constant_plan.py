"""The best constant plan, on futures made by hand."""

import numpy as np
import pytest

from vadslim.vad.metrics.constant_plan import constant_plans, score_plans


def ego(command: int, speeds: list[float], known: int = 6) -> dict[str, np.ndarray]:
    """A future straight ahead with these steps (metres); only the first ``known`` count, the others are zero."""
    masks = (np.arange(6) < known).astype(np.float32)
    steps = np.stack([np.zeros(6), speeds * masks], -1).astype(np.float32)
    return {'fut_trajs': steps, 'fut_masks': masks, 'fut_cmd': np.eye(3, dtype=np.float32)[command]}


def test_medians_of_known_steps_per_command():
    frames = [ego(2, [1.0] * 6), ego(2, [2.0] * 6), ego(2, [9.0] * 6, known=2), ego(0, [4.0] * 6)]
    plans = constant_plans(frames)
    assert plans[2, :, 1].tolist() == [2.0, 2.0, 1.5, 1.5, 1.5, 1.5]
    assert plans[0, :, 1].tolist() == [4.0] * 6
    assert not plans[1].any()  # never seen
    assert not plans[..., 0].any()


def test_score_is_the_mean_distance_up_to_each_second():
    plans = constant_plans([ego(2, [2.0] * 6)])
    frames = [(ego(2, [3.0] * 6), True), (ego(2, [2.0] * 6), True), (ego(2, [50.0] * 6), False)]
    score = score_plans(plans, frames)
    # the first plan falls behind by one metre per step, the second is exact, the third does not count
    assert score == pytest.approx({'plan_L2_1s': 1.5 / 2, 'plan_L2_2s': 2.5 / 2, 'plan_L2_3s': 3.5 / 2})
