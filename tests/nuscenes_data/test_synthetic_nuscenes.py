"""The synthetic dataset, seen through the unmodified nuscenes-devkit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.map_expansion.map_api import locations as LOCATIONS
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, view_points
from nuscenes.utils.splits import create_splits_scenes
from pyquaternion import Quaternion
from shapely.geometry import Polygon
from shapely.ops import unary_union

from vadslim.nuscenes_data.synthetic import Settings, simulate
from vadslim.nuscenes_data.synthetic.catalogue import CAMERAS, CATEGORIES

SAMPLES = 12


@pytest.fixture(scope='module')
def nusc(synthetic_root):
    return NuScenes('v1.0-mini', str(synthetic_root), verbose=False)


@pytest.fixture(scope='module')
def maps(synthetic_root):
    return {name: NuScenesMap(str(synthetic_root), name) for name in LOCATIONS}


def _location(nusc, sample):
    return nusc.get('log', nusc.get('scene', sample['scene_token'])['log_token'])['location']


def _ego(nusc, sample):
    data = nusc.get('sample_data', sample['data']['LIDAR_TOP'])
    return nusc.get('ego_pose', data['ego_pose_token'])


def test_scenes_and_splits(nusc):
    names = {scene['name'] for scene in nusc.scene}
    splits = create_splits_scenes()
    assert len(names) == 2
    assert len(names & set(splits['mini_train'])) == 1
    assert len(names & set(splits['mini_val'])) == 1
    assert {len(nusc.category), len(nusc.attribute), len(nusc.visibility)} == {23, 8, 4}


def test_records_are_linked(nusc):
    for scene in nusc.scene:
        token, count = scene['first_sample_token'], 0
        while token:
            sample = nusc.get('sample', token)
            assert set(sample['data']) == {*CAMERAS, 'LIDAR_TOP'}
            last, token, count = token, sample['next'], count + 1
        assert last == scene['last_sample_token']
        assert count == scene['nbr_samples'] == SAMPLES
    for instance in nusc.instance:
        token, tokens = instance['first_annotation_token'], []
        while token:
            annotation = nusc.get('sample_annotation', token)
            assert annotation['prev'] == (tokens[-1] if tokens else '')
            assert annotation['instance_token'] == instance['token']
            tokens.append(token)
            token = annotation['next']
        assert tokens[-1] == instance['last_annotation_token']
        assert len(tokens) == instance['nbr_annotations']
    chained = [d for d in nusc.sample_data if d['channel'] == 'LIDAR_TOP' and d['prev']]
    for data in chained:
        before = nusc.get('sample_data', data['prev'])
        assert before['next'] == data['token']
        assert before['timestamp'] < data['timestamp']
    assert any(not d['is_key_frame'] for d in chained)


def test_sensor_files(nusc):
    for sample in nusc.sample[::5]:
        for channel, token in sample['data'].items():
            data = nusc.get('sample_data', token)
            assert abs(data['timestamp'] - sample['timestamp']) < 20_000
            path = nusc.get_sample_data_path(token)
            if channel == 'LIDAR_TOP':
                points = np.fromfile(path, np.float32).reshape(-1, 5)
                assert 200 < len(points) < 5000
                # The ground lies a lidar height below the sensor.
                assert np.median(points[:, 2]) < 0
                assert points[:, 2].min() == pytest.approx(-1.84, abs=0.05)
            else:
                assert cv2.imread(path).shape == (900, 1600, 3)


def test_lidar_points_lie_in_their_boxes(nusc):
    """num_lidar_pts is what the devkit counts in the stored sweep."""
    sample = nusc.sample[4]
    path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
    cloud = LidarPointCloud.from_file(path)
    counts = [int(points_in_box(box, cloud.points[:3]).sum()) for box in boxes]
    stated = [nusc.get('sample_annotation', box.token)['num_lidar_pts'] for box in boxes]
    assert sum(stated) > 100
    # Translations are stored to the millimetre: a point on a face may change sides.
    assert np.abs(np.array(counts) - stated).max() <= 2
    assert np.mean(np.array(counts) == stated) > 0.9


def _hue_distance(bgr, rgb):
    """Angle (degrees) between a pixel and a colour, whatever the shade."""
    a, b = bgr[::-1].astype(float), np.array(rgb, float)
    cosine = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9)
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize('channel', CAMERAS)
def test_boxes_project_onto_their_colour(nusc, channel):
    """Points just inside the corners of the nearest boxes, projected by the devkit, have the box's colour."""
    right = wrong = 0
    for sample in nusc.sample[::2]:
        token = sample['data'][channel]
        path, boxes, intrinsic = nusc.get_sample_data(token)
        image = cv2.imread(path)
        drawn = np.zeros(image.shape[:2], bool)
        for box in sorted(boxes, key=lambda b: np.linalg.norm(b.center)):
            corners = box.corners()
            if corners[2].min() < 1.0:
                drawn[:] = True  # somebody very close may cover anything
                continue
            pixels = view_points(corners, intrinsic, normalize=True)[:2].T
            hull = cv2.convexHull(pixels.astype(np.float32)).astype(np.int32)
            mask = np.zeros(image.shape[:2], np.uint8)
            cv2.fillConvexPoly(mask, hull, 1)
            points = view_points(
                box.center[:, None] + 0.85 * (corners - box.center[:, None]), intrinsic, normalize=True
            )[:2].T.astype(int)
            for x, y in points:
                if not (4 <= x < 1596 and 4 <= y < 896) or drawn[y, x] or mask.sum() < 1500:
                    continue
                good = _hue_distance(image[y, x], CATEGORIES[box.name].colour) < 9
                right, wrong = right + good, wrong + (not good)
            drawn |= cv2.dilate(mask, np.ones((9, 9), np.uint8)).astype(bool)
    if channel == 'CAM_FRONT':
        assert right + wrong >= 50
    assert right >= 0.95 * (right + wrong)


def test_velocity_is_the_simulated_one(nusc):
    settings = Settings(scenes=2, seed=0, samples=SAMPLES)
    checked = 0
    for record in nusc.scene:
        scene = simulate(record['name'], settings)
        actors = {(round(a.size[0], 3), round(a.size[1], 3), round(a.size[2], 3)): a for a in scene.actors}
        first = nusc.get('sample', record['first_sample_token'])['timestamp']
        for annotation in nusc.sample_annotation:
            sample = nusc.get('sample', annotation['sample_token'])
            if sample['scene_token'] != record['token'] or not (annotation['prev'] and annotation['next']):
                continue
            actor = actors[tuple(annotation['size'])]
            time = (sample['timestamp'] - first) / 1e6
            x, y, yaw, speed = scene.state(actor, time)
            np.testing.assert_allclose(annotation['translation'][:2], [x, y], atol=1e-3)
            ahead = speed * np.array([np.cos(yaw), np.sin(yaw)])
            measured = nusc.box_velocity(annotation['token'])[:2]
            # A centred difference over one second: off by the change of acceleration and heading in it.
            if actor.category.startswith('vehicle'):
                np.testing.assert_allclose(measured, ahead, atol=0.6)
                checked += speed > 1.0
            else:
                assert np.linalg.norm(measured) < 2.0
    assert checked > 50


def test_nobody_touches_anybody(nusc):
    """Plan views of all boxes of a sample, and the ego's, do not overlap."""
    for sample in nusc.sample[::3]:
        pose = _ego(nusc, sample)
        heading = Quaternion(pose['rotation']).yaw_pitch_roll[0]
        c, s = np.cos(heading), np.sin(heading)
        body = np.array([[3.46, 0.92], [3.46, -0.92], [-0.62, -0.92], [-0.62, 0.92]])
        shapes = [Polygon(body @ np.array([[c, s], [-s, c]]) + pose['translation'][:2])]
        shapes += [Polygon(nusc.get_box(token).bottom_corners()[:2].T) for token in sample['anns']]
        for i, a in enumerate(shapes):
            for b in shapes[i + 1 :]:
                assert a.intersection(b).area < 1e-3


def test_can_bus_is_the_ego_motion(nusc, synthetic_root):
    bus = NuScenesCanBus(str(synthetic_root))
    for scene in nusc.scene:
        pose = bus.get_messages(scene['name'], 'pose')
        # VAD reads the values behind utime, pos and orientation in the order of the keys.
        rest = [key for key in pose[0] if key not in ('utime', 'pos', 'orientation')]
        assert rest == ['accel', 'rotation_rate', 'vel']
        times = np.array([m['utime'] for m in pose])
        assert np.median(np.diff(times)) == 20_000
        token = scene['first_sample_token']
        while token:
            sample = nusc.get('sample', token)
            k = int(np.searchsorted(times, sample['timestamp']))
            ego = _ego(nusc, sample)
            np.testing.assert_allclose(pose[k]['pos'], ego['translation'], atol=1e-5)
            np.testing.assert_allclose(pose[k]['orientation'], ego['rotation'], atol=1e-6)
            if 0 < k < len(pose) - 1:
                moved = np.linalg.norm(np.subtract(pose[k + 1]['pos'], pose[k - 1]['pos'])) / 0.04
                assert moved == pytest.approx(pose[k]['vel'][0], abs=0.05)
            token = sample['next']
        for name in ('ms_imu', 'steeranglefeedback', 'vehicle_monitor', 'zoesensors'):
            assert bus.get_messages(scene['name'], name)[0]['utime'] <= times[50]
        assert set(bus.get_messages(scene['name'], 'meta')) >= {'pose', 'ms_imu', 'vehicle_monitor'}
        route, track = bus.get_pose_and_route(scene['name'])
        assert max(np.linalg.norm(route - point, axis=1).min() for point in track[::50]) < 0.2


def test_map_around_the_ego(nusc, maps):
    seen = set()
    for sample in nusc.sample[::3]:
        x, y, _ = _ego(nusc, sample)['translation']
        nusc_map = maps[_location(nusc, sample)]
        layers = ['road_segment', 'lane', 'ped_crossing', 'road_divider', 'lane_divider', 'walkway', 'stop_line']
        records = nusc_map.get_records_in_patch((x - 30, y - 30, x + 30, y + 30), layers)
        assert records['road_segment'] and records['road_divider'] and records['lane']
        seen |= {layer for layer, tokens in records.items() if tokens}
        # The ego drives on the road and keeps to a lane.
        assert nusc_map.layers_on_point(x, y)['road_segment']
        assert nusc_map.layers_on_point(x, y)['drivable_area']
        lane = nusc_map.get_closest_lane(x, y, radius=3)
        path = np.array(nusc_map.discretize_lanes([lane], 0.5)[lane])[:, :2]
        assert np.linalg.norm(path - [x, y], axis=1).min() < 0.6
    assert seen == set(layers)


@pytest.mark.parametrize('location', LOCATIONS)
def test_map_is_consistent(maps, location):
    nusc_map = maps[location]
    for layer in ('road_segment', 'lane', 'ped_crossing', 'road_block', 'walkway'):
        for record in getattr(nusc_map, layer)[::7]:
            polygon = nusc_map.extract_polygon(record['polygon_token'])
            assert polygon.is_valid and polygon.area > 5.0
    lanes = {record['token'] for record in nusc_map.lane + nusc_map.lane_connector}
    for token, links in nusc_map.connectivity.items():
        assert token in lanes and set(links['incoming']) | set(links['outgoing']) <= lanes
        end = nusc_map.discretize_lanes([token], 1.0)[token][-1]
        for follower in links['outgoing']:
            start = nusc_map.discretize_lanes([follower], 1.0)[follower][0]
            assert np.hypot(end[0] - start[0], end[1] - start[1]) < 0.3
    # Road pieces, crossroads and lanes fit together: their union has the nine blocks as holes, and no slivers.
    layers = [*nusc_map.road_segment, *nusc_map.lane]
    paved = unary_union([nusc_map.extract_polygon(record['polygon_token']) for record in layers])
    assert paved.geom_type == 'Polygon'
    assert len(paved.interiors) == 9
    assert min(Polygon(ring).area for ring in paved.interiors) > 1000.0
    width, height = nusc_map.canvas_edge
    assert all(0 < n['x'] < width and 0 < n['y'] < height for n in nusc_map.node)


def test_map_mask_is_the_road(nusc):
    for sample in nusc.sample[::4]:
        log = nusc.get('log', nusc.get('scene', sample['scene_token'])['log_token'])
        mask = nusc.get('map', log['map_token'])['mask']
        x, y, _ = _ego(nusc, sample)['translation']
        assert mask.is_on_mask(x, y).all()
        assert not mask.is_on_mask(20.0, 20.0).any()
