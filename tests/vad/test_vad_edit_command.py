"""The pruning command takes layers, cells and units of a small VAD; what it writes runs under both configs."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from vadslim import experiment
from vadslim.checkpoint import load_checkpoint
from vadslim.options import load_config, merge_texts
from vadslim.registry import MODELS
from vadslim.slimming import main
from vadslim.vad.detector import VAD
from vadslim.vad.example import example_frames, run_example

CONFIG = 'configs/VAD/VAD_nano_synthetic.py'
SLIM = 'vad_structured_pruned.pth'
HEAD = 'pts_bbox_head.'
SMALL = [
    f'model.{HEAD}{option}'
    for option in (
        'bev_h=12',
        'bev_w=8',
        'positional_encoding.row_num_embed=12',
        'positional_encoding.col_num_embed=8',
        'transformer.rotate_center=[4,6]',
        'num_query=16',
        'map_num_vec=8',
    )
]


def built(cfg: Config, checkpoint: dict) -> VAD:
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        model = MODELS.build(cfg.model)
    model.load_state_dict(checkpoint['state_dict'])  # strict
    return model.eval()


def test_layers_cells_and_units(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    edits = ['--keep-layers', 'decoder=1', 'map_decoder=0', '--bev-size', '8x6']
    out = tmp_path / 'out'
    rest = ['--latency', '0', '--output-dir', str(out), '--cfg-options', *SMALL]
    assert main([CONFIG, 'random', *edits, '--pruning-ratio', '0.3', *rest]) == 0, capfd.readouterr().err
    text = capfd.readouterr().out
    report = json.loads((out / 'report.json').read_text())
    assert [row['what'].partition(':')[0] for row in report['edits']] == [
        'pts_bbox_head.transformer.decoder.layers',
        'pts_bbox_head.transformer.map_decoder.layers',
        'grid 12x8 -> 8x6',
    ]
    assert all(row['params_saved'] > 0 and row['macs_saved'] > 0 for row in report['edits'])
    assert report['changes'].keys() >= {'ego_fut_preds', 'all_cls_scores', 'map_all_pts_preds'}
    assert 'these edits alone change the outputs' in text

    checkpoint = load_checkpoint(out / SLIM)
    slim = built(Config.fromfile(out / 'VAD_nano_synthetic_slim.py'), checkpoint)
    original = load_config(CONFIG)
    merge_texts(original, SMALL)
    assert experiment.use_structure(original, checkpoint, out / SLIM)
    frames = example_frames((32, 64), 2)
    with torch.no_grad():
        one, other = (run_example(model, frames) for model in (slim, built(original, checkpoint)))
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())
    head = slim.pts_bbox_head
    assert (head.bev_h, head.bev_w, len(head.transformer.decoder.layers), len(head.cls_branches)) == (8, 6, 1, 1)
    groups = checkpoint['meta']['structure']['groups']  # by the dense network's names
    assert f'{HEAD}transformer.decoder.layers.1.ffns.0.layers.0.0' in groups
    assert f'{HEAD}transformer.decoder.layers.0.ffns.0.layers.0.0' not in groups
