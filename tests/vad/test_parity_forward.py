"""Outputs of two consecutive frames equal those of the original, module by module."""

import zlib

import numpy as np
import pytest
from vad_goldens import arrays
from vad_reference import build_small, deviations, reference, stored

from vadslim.vad import parity

GOLDEN = 'golden_tiny_test_small.npz'


@pytest.fixture(scope='module')
def model():
    return build_small()


@pytest.fixture(scope='module')
def outputs(model):
    return parity.run_test(model, reference(), 'small')


def test_the_weights_and_images_are_those_of_the_reference(model):
    checksums = stored('checksums_small.json.gz')
    ours = {key: zlib.crc32(value.numpy().tobytes()) for key, value in model.state_dict().items()}
    assert ours == checksums['weights']
    for frame, crc in checksums['images'].items():
        assert zlib.crc32(reference().inputs.images('small', int(frame)).tobytes()) == crc


@pytest.mark.parametrize('frame', [0, 1])
def test_head_outputs(outputs, frame):
    worst = {k: v for k, v in deviations(GOLDEN, outputs).items() if k.startswith(f'frame{frame}/head/')}
    assert len(worst) == 10
    assert {k: v for k, v in worst.items() if v > 2e-5} == {}
    key = f'frame{frame}/head/all_bbox_preds'
    assert np.abs(outputs[key] - arrays(GOLDEN)[key]).max() < 1e-3  # metres


@pytest.mark.parametrize('frame', [0, 1])
def test_every_module(outputs, frame):
    prefix = f'frame{frame}/mid/'
    worst = {k: v for k, v in deviations(GOLDEN, outputs).items() if k.startswith(prefix)}
    modules = {k[len(prefix) :].rsplit('/', 1)[0] for k in worst}
    assert {'encoder.shift', 'point_sampling.hits_per_cam', 'encoder.layer2.sca', 'map_decoder.layer2'} <= modules
    assert ('encoder.prev_bev_after_rotation' in modules) == (frame == 1)
    assert {k: v for k, v in worst.items() if v > 2e-5} == {}


@pytest.mark.parametrize('frame', [0, 1])
def test_decoded_predictions(outputs, frame):
    golden = arrays(GOLDEN)
    for kind in ('', 'map_'):
        names = [f'frame{frame}/decoded/{kind}{part}' for part in ('labels_3d', 'scores_3d', 'boxes_3d')]
        # Neighbouring scores can be closer than rounding: compare in the order of (label, first coordinate).
        ours, true = ([file[name] for name in names] for file in (outputs, golden))
        assert len(ours[0]) == len(true[0])
        ours, true = ([part[np.lexsort((x[2][:, 0], x[0]))] for part in x] for x in (ours, true))
        np.testing.assert_array_equal(ours[0], true[0])
        np.testing.assert_allclose(ours[1], true[1], atol=2e-5)
        np.testing.assert_allclose(ours[2], true[2], atol=1e-3)
    assert np.array_equal(outputs[f'frame{frame}/can_bus_used'], golden[f'frame{frame}/can_bus_used'])


@pytest.mark.parametrize('frame', [0, 1])
def test_metrics(outputs, frame):
    golden = arrays(GOLDEN)
    assert outputs[f'frame{frame}/metric_keys'].tolist() == golden[f'frame{frame}/metric_keys'].tolist()
    ours, true = (file[f'frame{frame}/metric_values'] for file in (outputs, golden))
    np.testing.assert_allclose(ours, true, atol=1e-5)


def test_prediction_gives_the_samples_the_same_numbers(model, outputs):
    """The public way in, ``mode='predict'``, with the state carried from frame to frame."""
    model.reset_history()
    for frame in (0, 1):
        inputs, sample = reference().frame('small', frame)
        (predicted,) = model(inputs, [sample], mode='predict')
        prefix = f'frame{frame}/decoded/'
        boxes = predicted.pred_instances_3d.bboxes_3d.detach().numpy()
        np.testing.assert_allclose(boxes, outputs[f'{prefix}boxes_3d'], atol=1e-4)
        points = predicted.pred_map.pts.detach().numpy()
        np.testing.assert_allclose(points, outputs[f'{prefix}map_pts_3d'], atol=1e-4)
        plan = predicted.pred_ego.fut_preds.detach().numpy()
        np.testing.assert_allclose(plan, outputs[f'{prefix}ego_fut_preds'], atol=1e-4)
