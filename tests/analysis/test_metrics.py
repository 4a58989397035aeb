"""What the names of metrics tell."""

import pytest

from vadslim.analysis.metrics import family, in_order, is_detail


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
        ('mAP', 'Scores', 'fraction'),
        ('pts_bbox_NuScenes/NDS', 'Scores', 'fraction'),
        ('pts_bbox_NuscMap_chamfer/divider_AP', 'Scores', 'fraction'),
        ('EPA_car', 'Scores', 'fraction'),
        ('mapping', 'Metrics', ''),
    ],
)
def test_families(name, title, unit):
    assert family(name) == (title, unit)


def test_order():
    names = ['mAP', 'obj_col_1s', 'ADE', 'plan_L2_2s', 'obj_box_col_1s', 'plan_L2_1s', 'mAP']
    assert in_order(names) == ['plan_L2_2s', 'plan_L2_1s', 'obj_box_col_1s', 'obj_col_1s', 'mAP', 'ADE']


def test_details():
    parts = [
        'NuScenes/car_AP_dist_0.5',
        'chamfer/divider_AP_thr_1.0',
        'NuScenes/car_trans_err',
        'gt_car',
        'cnt_ade_car',
    ]
    sums = [
        'NuScenes/mAP',
        'NuScenes/NDS',
        'NuScenes/mATE',
        'chamfer/divider_AP',
        'EPA_car',
        'plan_L2_1s',
        'plan_obj_col_1s',
    ]
    assert all(map(is_detail, parts)) and not any(map(is_detail, sums))
