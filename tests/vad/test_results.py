"""Result files: written by one process or several, read back, taken by the devkit (test_detection_metric.py)."""

import copy
import json

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from vad_detections import meta, val_infos, whole_sample

from vadslim.cli import UserError
from vadslim.vad.metrics import VADNuScenesMetric
from vadslim.vad.results import FORMAT, ResultsWriter, read_results

# Whole frames of each rank; the second has two of the first rank's again, the third none at all.
RANKS = ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 1, 0], [])


@pytest.fixture(scope='module')
def samples(synthetic_root, tmp_path_factory):
    infos = val_infos(synthetic_root, tmp_path_factory.mktemp('val'))
    return [whole_sample(info, seed) for seed, info in enumerate(infos)]


def evaluate(samples, root, folder, tasks=('detection',)):
    metric = VADNuScenesMetric(tasks=tasks)
    metric.write_results(folder)
    metric.dataset_meta = meta(root)
    for sample in copy.deepcopy(samples):
        metric.process(None, [sample])
    return metric.evaluate(12)


def rank_main(rank, samples, root, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=len(RANKS))
    metrics = evaluate([samples[i] for i in RANKS[rank]], root, folder / 'several')
    (folder / f'{rank}.json').write_text(json.dumps(metrics))
    dist.destroy_process_group()


def test_several_processes_write_and_say_what_one_does(samples, synthetic_root, tmp_path):
    expected = evaluate(samples, synthetic_root, tmp_path / 'one')
    mp.start_processes(rank_main, (samples, synthetic_root, tmp_path), nprocs=len(RANKS), start_method='fork')
    for rank in range(len(RANKS)):
        metrics = json.loads((tmp_path / f'{rank}.json').read_text())
        assert metrics == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    (one,), (several,) = (list((tmp_path / name).iterdir()) for name in ('one', 'several'))  # and nothing else
    assert several.read_bytes() == one.read_bytes()


def test_what_is_inside(samples, synthetic_root, tmp_path):
    evaluate(samples, synthetic_root, tmp_path / 'new' / 'folder', tasks=())
    content = read_results(tmp_path / 'new' / 'folder' / 'results_nusc.json')
    assert content['meta']['format'] == FORMAT
    assert content['meta']['use_camera']
    tokens = [sample['sample_idx'] for sample in samples]
    for section in ('results', 'map_results', 'plan_results'):
        assert list(content[section]) == sorted(tokens)
    sample = samples[4]
    token, pred = sample['sample_idx'], sample['pred_instances_3d']
    boxes = content['results'][token]
    at = [pred['scores_3d'].tolist().index(box['detection_score']) for box in boxes]
    assert 0 < len(at) < len(pred['scores_3d'])
    assert (pred['scores_3d'][at] >= 0.2).all()
    to_lidar = np.linalg.inv(sample['lidar2global'])
    for i, box in zip(at, boxes):
        assert box['sample_token'] == token
        x, y, *size = pred['bboxes_3d'][i, [0, 1, 3, 4]].tolist()
        np.testing.assert_allclose((to_lidar @ [*box['translation'], 1])[:2], [x, y], atol=1e-6)
        np.testing.assert_allclose(box['size'][:2], size)
        steps = pred['trajs_3d'][i].reshape(6, 6, 2)
        np.testing.assert_allclose(np.diff(box['fut_traj'], axis=1), steps[:, 1:], atol=2e-4)
        np.testing.assert_allclose(np.array(box['fut_traj'])[:, 0], steps[:, 0] + [x, y], atol=1e-4)
        np.testing.assert_allclose(box['fut_score'], pred['traj_scores_3d'][i], atol=1e-4)
    lines, vectors = content['map_results'][token], sample['pred_map']
    assert [line['cls_name'] for line in lines] == ['divider', 'ped_crossing', 'boundary', 'divider']
    np.testing.assert_allclose([line['pts'] for line in lines], vectors['pts'], atol=1e-4)
    assert [line['score'] for line in lines] == vectors['scores'].tolist()
    plan = content['plan_results'][token]
    np.testing.assert_allclose(plan['plans'], sample['pred_ego']['fut_preds'].cumsum(1), atol=1e-4)
    assert plan['command'] == sample['gt_ego']['fut_cmd'].argmax()


def test_without_ground_truth_there_is_no_command(samples, synthetic_root, tmp_path):
    blind = [{key: value for key, value in sample.items() if key != 'gt_ego'} for sample in samples[:1]]
    evaluate(blind, synthetic_root, tmp_path, tasks=())
    (plan,) = read_results(tmp_path / 'results_nusc.json')['plan_results'].values()
    assert plan['command'] is None


def test_nothing_was_predicted(samples, synthetic_root, tmp_path):
    sample = copy.deepcopy(samples[0])
    for name in ('pred_instances_3d', 'pred_map'):
        sample[name] = {key: value[:0] for key, value in sample[name].items()}
    evaluate([sample], synthetic_root, tmp_path, tasks=())
    content = read_results(tmp_path / 'results_nusc.json')
    token = sample['sample_idx']
    assert content['results'] == content['map_results'] == {token: []}
    assert len(content['plan_results'][token]['plans']) == 3


def test_the_file_comes_last(samples, synthetic_root, tmp_path):
    old = tmp_path / 'results_nusc.json'
    old.write_text('old')
    writer = ResultsWriter(tmp_path)
    writer.add('a', {'results': [], 'map_results': [], 'plan_results': {}})
    assert old.read_text() == 'old'
    writer.discard()
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == 'old'


def test_no_samples(tmp_path):
    ResultsWriter(tmp_path).finish()
    assert read_results(tmp_path / 'results_nusc.json')['results'] == {}


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (None, 'cannot be read: No such file'),
        ('{"meta": {', 'is truncated or no JSON file'),
        ('[]', 'not a result file; tools/test.py'),
        ('{"results": {}}', 'not a result file; tools/test.py'),
        ('{"meta": {"use_camera": true}, "results": {}}', 'not a result file of the format "vadslim results 1"'),
        ('{"meta": {"format": "vadslim results 1"}, "results": {}}', 'not a result file of the format'),
    ],
)
def test_what_cannot_be_read(tmp_path, text, words):
    path = tmp_path / 'r.json'
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_results(path)
    assert str(error.value).startswith(f'{path}: ')


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='results cannot be written there: '):
        VADNuScenesMetric(tasks=()).write_results(tmp_path / 'file' / 'folder')
