"""What the names of metrics tell."""

import pytest

from vadslim.analysis.metrics import family, in_order


@pytest.mark.parametrize(
    ('name', 'title', 'unit'),
    [
        ('plan_L2_1s', 'L2', 'm'),
        ('NuScenes/plan_L2_3s', 'L2', 'm'),
        ('plan_obj_box_col_2s', 'Collisions', 'fraction'),
        ('collision', 'Collisions', 'fraction'),
        ('color_l2x', 'Metrics', ''),
        ('minADE', 'Displacement', 'm'),
        ('FDE_car', 'Displacement', 'm'),
        ('MR_pedestrian', 'Misses', 'fraction'),
        ('plan_L2_at_1s', 'L2', 'm'),
        ('plan_obj_box_col_at_2s', 'Collisions', 'fraction'),
        ('NuscMap_chamfer/divider_AP_thr_0.5', 'Average precision', 'fraction'),
        ('mAP', 'Average precision', 'fraction'),
        ('hit_car', 'Counts', ''),
        ('EPA_car', 'Metrics', ''),
    ],
)
def test_families(name, title, unit):
    assert family(name) == (title, unit)


def test_order():
    names = ['mAP', 'obj_col_1s', 'ADE', 'plan_L2_2s', 'obj_box_col_1s', 'plan_L2_1s', 'mAP']
    assert in_order(names) == ['plan_L2_2s', 'plan_L2_1s', 'obj_box_col_1s', 'obj_col_1s', 'ADE', 'mAP']
