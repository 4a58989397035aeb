"""How much worse the plan may become."""

import pytest

from vadslim.cli import UserError
from vadslim.slimming.guards import Limit, breaches

BEFORE = {
    'plan_L2_1s': 0.5,
    'plan_L2_2s': 1.0,
    'plan_L2_3s': 1.5,
    'plan_obj_box_col_1s': 0.002,
    'mAP': 0.3,
    'plan_L2_at_1s': 9.0,
    'plan_L2_at_3s': 9.0,
    'plan_obj_box_col_at_1s': 0.5,  # another convention: not looked at
}


@pytest.mark.parametrize(
    'name, text, allowed',
    [
        ('L2', '0.1', 1.1),
        ('L2', '10%', 1.1),
        ('L2', '0.05m', 1.05),
        ('L2', '.05 m', 1.05),
        ('L2', '0', 1.0),
        ('collision', '50%', 0.003),
        ('collision', '0.1pp', 0.003),
    ],
)
def test_what_is_allowed(name, text, allowed):
    limit = Limit(name, text)
    assert limit.allowed(limit.value(BEFORE)) == pytest.approx(allowed, rel=1e-12)


@pytest.mark.parametrize(
    'name, text', [('L2', '0.1pp'), ('collision', '0.1m'), ('L2', '-1'), ('L2', 'nan'), ('L2', '')]
)
def test_what_is_no_increase(name, text):
    with pytest.raises(UserError, match=f'--max-{name.lower()}-increase .*an increase is needed'):
        Limit(name, text)


def test_breaches_are_said_with_their_numbers():
    limits = (Limit('L2', '10%'), Limit('collision', '0.05pp'))
    assert breaches(limits, BEFORE, BEFORE) == ''
    assert breaches(limits, BEFORE, {**BEFORE, 'plan_L2_3s': 1.75}) == ''  # a mean of 1.083
    worse = {**BEFORE, 'plan_L2_3s': 1.95, 'plan_obj_box_col_1s': 0.003}
    assert breaches(limits, BEFORE, worse) == (
        'L2 1.15 m where 1.1 m is allowed (it was 1 m) and collision 0.3% where 0.25% is allowed (it was 0.2%)'
    )


def test_a_metric_that_was_not_measured():
    with pytest.raises(UserError, match=r'--max-l2-increase: \*plan_L2_\[123\]s is none of .* \(mAP\)'):
        Limit('L2', '0.1').value({'mAP': 0.3})
    with pytest.raises(UserError, match='is not a number'):
        Limit('L2', '0.1').value({'plan_L2_1s': float('nan')})
