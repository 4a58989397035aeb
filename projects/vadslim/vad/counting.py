"""The frame on which VAD is counted and timed: one with a previous view, all of whose work is fixed by sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vadslim.analysis import Change, Complexity, Example, declares_example

from .detector import VAD
from .example import example_frames
from .original_counts import hits_per_camera, original_changes

NUSCENES_HW, TINY_SCALE, DIVISOR = (900, 1600), 0.4, 32
SMALL_HW = (96, 160)

#: What the published figures name, and the modules of each.
PARTS = {
    'backbone': ['img_backbone'],
    'neck': ['img_neck'],
    'BEV encoder': ['pts_bbox_head.transformer.encoder', 'pts_bbox_head.transformer.can_bus_mlp'],
    'objects': [
        'pts_bbox_head.transformer.decoder',
        'pts_bbox_head.transformer.reference_points',
        'pts_bbox_head.cls_branches',
        'pts_bbox_head.reg_branches',
    ],
    'map': [
        'pts_bbox_head.transformer.map_decoder',
        'pts_bbox_head.transformer.map_reference_points',
        'pts_bbox_head.map_cls_branches',
        'pts_bbox_head.map_reg_branches',
    ],
    'motion': [
        'pts_bbox_head.motion_*',
        'pts_bbox_head.lane_encoder',
        'pts_bbox_head.pos_mlp',
        'pts_bbox_head.pos_mlp_sa',
        'pts_bbox_head.traj_*',
    ],
    'planning': ['pts_bbox_head.agent_fus_mlp', 'pts_bbox_head.ego_*'],
}


def image_hw(cfg: Any) -> tuple[int, int]:
    """Height and width of the padded images that a config's test pipeline makes of nuScenes pictures.

    384 x 640 for VAD-tiny and for a config without such a pipeline, 736 x 1280 for VAD-base.
    """
    loader = cfg.get('test_dataloader') if cfg is not None else None
    pipeline = ((loader or {}).get('dataset') or {}).get('pipeline') or []
    scales = [step['scales'][0] for step in pipeline if step.get('scales')]
    scale = math.prod(scales) if scales else TINY_SCALE
    scale /= math.prod(step.get('reduced', 1) for step in pipeline)
    height, width = (math.ceil(round(side * scale) / DIVISOR) * DIVISOR for side in NUSCENES_HW)
    return height, width


@declares_example(VAD)
def vad_example(model: VAD, cfg: Any, small: bool) -> Example:
    """The second frame of ``example_frames``; the view of the first is replaced by noise of the same size.

    Nothing that follows depends on the contents of a view or an image: every map vector takes part, masked or not.
    All channels of the noise are equal, so that a network with fewer of them is given the same; and the view is not
    among the outputs, as its width is the network's own.
    """
    height, width = SMALL_HW if small else image_hw(cfg)
    (_, (first,)), (inputs, (sample,)) = example_frames((height, width), 2)
    cells = model.pts_bbox_head.bev_embedding.weight.shape[0]
    noise = torch.randn(1, cells, 1, generator=torch.Generator().manual_seed(0))

    def run(network: VAD) -> dict[str, Tensor]:
        view = network.pts_bbox_head.bev_embedding.weight  # it may be narrower and have fewer cells by now
        network.prev_frame_info = {
            'prev_bev': noise[:, : view.shape[0]].repeat(1, 1, view.shape[1]).to(view),
            'scene_token': sample.metainfo['scene_token'],
            'prev_pos': first.metainfo['can_bus'][:3].copy(),
            'prev_angle': float(first.metainfo['can_bus'][-1]),
        }
        outputs = network({'img': inputs['img'].to(view)}, [sample.clone()], mode='tensor')
        network.reset_history()
        del outputs['bev_embed']
        return outputs

    label = f'6 x {height} x {width}, batch 1, with a previous view, all map vectors'

    def original(network: nn.Module, counted: Complexity) -> list[Change]:
        return original_changes(network, counted, hits_per_camera(network.pts_bbox_head, sample.metainfo))

    return Example(run, label, fixed_work=True, parts=PARTS, alternatives={'as the original computes': original})
