"""The stages of VAD, in small: perception, planning, slimming, fine-tuning and test, by one command."""

import json
from pathlib import Path

import pytest
import torch

from vadslim import train
from vadslim.analysis import plots
from vadslim.checkpoint import load_checkpoint
from vadslim.cli import run
from vadslim.staged.settings import resolve

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'staged'
PLAN = ('reg', 'bound', 'col', 'dir')
NAMES = ['stage_1', 'stage_2', 'prune', 'fine_tune', 'test']


def plan_weights(stage):
    head = stage.settings['model']['pts_bbox_head']
    return [head[f'loss_plan_{name}']['loss_weight'] for name in PLAN]


def test_the_published_recipe():
    stages = resolve(CONFIGS / 'vad_pipeline.py').stages
    assert [stage.name for stage in stages] == NAMES
    assert [stage.init_from for stage in stages] == [None, *NAMES[:-1]]
    first, second, _, tuned, _ = stages
    assert [stage.settings['train_cfg']['max_epochs'] for stage in (first, second, tuned)] == [48, 12, 6]
    assert not any(plan_weights(first)) and all(plan_weights(second))
    rates = [stage.settings['optim_wrapper']['optimizer']['lr'] for stage in stages]
    assert rates[:2] == [2e-4, 2e-4] and rates[3] == 2e-5
    assert {stage.settings['data_root'] for stage in stages} == {'data/nuscenes/'}
    moved = resolve(CONFIGS / 'vad_pipeline.py', {'data_root': 'd/'}).stages
    assert {stage.settings['test_dataloader']['dataset']['data_root'] for stage in moved} == {'d/'}


@pytest.mark.slow
def test_all_stages_on_synthetic_data(nano_config, synthetic_root, tmp_path, monkeypatch):
    for name in ('widths_picture', 'parts_picture'):
        monkeypatch.setattr(plots, name, lambda *_: b'')
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))  # was half the time
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    infos = str(nano_config.parent / 'both.pkl')
    data = f'data_root={str(synthetic_root) + "/"!r}, ann_file={infos!r}'
    loader = 'num_workers=0, persistent_workers=False'
    file = tmp_path / 'few_frames.py'
    file.write_text(
        f'extends = {str(CONFIGS / "vad_pipeline_small.py")!r}\n'
        f'work_dir = {str(tmp_path / "out")!r}\n'
        f'train_dataloader = dict({loader}, batch_size=1, dataset=dict({data}, indices=[4, 5]))\n'
        f'test_dataloader = dict({loader}, dataset=dict({data}, indices=[0, 1]))\n'
        'val_dataloader = val_cfg = val_evaluator = None\n'
        'stages = [dict(name="prune", options=dict(latency=0))]\n'
    )
    assert run(train.main, [str(file), '--run-all-stages', '--epochs', '1']) == 0
    out = tmp_path / 'out'
    done = {name: json.loads((out / name / 'done.json').read_text())['result'] for name in NAMES}
    files = {name: load_checkpoint(out / name / done[name]['checkpoint']) for name in NAMES[:-1]}
    for before, after in zip(NAMES[:-2], NAMES[1:]):
        old, new = (files[name]['state_dict']['pts_bbox_head.ego_fut_decoder.0.weight'] for name in (before, after))
        assert old.shape != new.shape if after == 'prune' else not torch.equal(old, new)
    assert files['fine_tune']['meta']['structure'] == files['prune']['meta']['structure']
    assert 0 < done['test']['metrics']['plan_L2_3s'] < 100
