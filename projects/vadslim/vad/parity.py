"""Runs the network on inputs and weights given by formulas, to be compared with stored outputs of the original VAD.

A reference folder holds two modules: ``weight_rule.py`` (``fill_state_dict(model)``, weights from their names alone)
and ``inputs.py`` (``CASES``, ``images``, ``img_meta``, ``train_metas``, ``ego``, ``agents``, ``map_vectors``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from mmengine import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData
from shapely import LineString
from torch import Tensor, nn

from .bev_encoder import pillar_points, project_points
from .datasets.map_lines import map_targets
from .metrics import MotionTask, PlanningTask

CASES = ('small', 'tiny', 'base_small')
_SMALL = {
    'model.pts_bbox_head.bev_h': 20,
    'model.pts_bbox_head.bev_w': 20,
    'model.pts_bbox_head.positional_encoding.row_num_embed': 20,
    'model.pts_bbox_head.positional_encoding.col_num_embed': 20,
    'model.pts_bbox_head.transformer.rotate_center': [10, 10],
}
_MAX_SAMPLES = 4096

Arrays = dict[str, np.ndarray]


class Reference:
    """The modules of a reference folder.

    Raises:
        FileNotFoundError: One of them is missing.
    """

    def __init__(self, folder: str | Path):
        self.weights = _load(Path(folder) / 'weight_rule.py')
        self.inputs = _load(Path(folder) / 'inputs.py')

    def frame(self, case: str, index: int, metas: dict | None = None) -> tuple[dict, Det3DDataSample]:
        """Images (1, 1, 6, 3, H, W) and the sample with all ground truth of a frame."""
        inputs = self.inputs
        sample = Det3DDataSample(metainfo=_meta(metas or inputs.img_meta(case, index)))
        boxes, labels, attrs = (torch.from_numpy(x) for x in inputs.agents())
        sample.gt_instances_3d = InstanceData(bboxes_3d=boxes, labels_3d=labels, attr_labels=attrs)
        vectors = inputs.map_vectors()
        lines, kinds = [LineString(points) for _, points in vectors], [kind for kind, _ in vectors]
        x_min, y_min, _, x_max, y_max, _ = inputs.PC_RANGE
        sample.gt_map = map_targets(lines, kinds, (y_max - y_min, x_max - x_min))
        ego = {name: torch.from_numpy(value) for name, value in inputs.ego(index).items()}
        sample.gt_ego = BaseDataElement(
            his_trajs=ego['ego_his_trajs'][0, 0],
            fut_trajs=ego['ego_fut_trajs'][0, 0],
            fut_masks=ego['ego_fut_masks'][0, 0, 0],
            fut_cmd=ego['ego_fut_cmd'][0, 0, 0],
            lcf_feat=ego['ego_lcf_feat'][0, 0, 0],
        )
        sample.set_metainfo({'fut_valid_flag': True})
        return {'img': torch.from_numpy(inputs.images(case, index))[None, None]}, sample

    def queue(self, case: str) -> tuple[dict, Det3DDataSample]:
        """Images (1, 3, 6, 3, H, W) of a training queue and the sample of its last frame."""
        metas = self.inputs.train_metas(case)
        last = max(metas)
        _, sample = self.frame(case, last, metas[last])
        sample.set_metainfo({'history_metas': [_meta(metas[i]) for i in sorted(metas)[:-1]]})
        img = torch.stack([torch.from_numpy(self.inputs.images(case, i)) for i in sorted(metas)])
        return {'img': img[None]}, sample


def build(reference: Reference, case: str, config: str | Path) -> nn.Module:
    """The model of a case with the reference's weights, in evaluation mode.

    Args:
        reference: Gives the weights.
        case: ``small``, ``tiny`` or ``base_small``.
        config: Path of VAD_tiny_stage_2.py, or VAD_base_stage_2.py for ``base_small``.
    """
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'model.use_grid_mask': False, **({} if case == 'tiny' else _SMALL)})
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmdet3d')
    model = MODELS.build({**cfg.model, 'data_preprocessor': None})
    reference.weights.fill_state_dict(model)
    return model.eval()


@torch.no_grad()
def run_test(model: nn.Module, reference: Reference, case: str, frames: int = 2) -> Arrays:
    """Outputs of consecutive frames under ``frame{f}/head|mid|decoded/...``; the second knows the first."""
    arrays: Arrays = {}
    model.reset_history()
    for index in range(frames):
        inputs, sample = reference.frame(case, index)
        with tapped(model) as taps:
            outputs = model(inputs, [sample], mode='tensor')
        agents, vectors = model.bbox_coder.decode(outputs)[0], model.map_bbox_coder.decode(outputs)[0]
        decoded = {
            'boxes_3d': agents.bboxes_3d,
            'scores_3d': agents.scores_3d,
            'labels_3d': agents.labels_3d,
            'trajs_3d': agents.trajs_3d,
            'map_boxes_3d': vectors.bboxes,
            'map_scores_3d': vectors.scores,
            'map_labels_3d': vectors.labels,
            'map_pts_3d': vectors.pts,
            'ego_fut_preds': outputs['ego_fut_preds'][0],
        }
        used = taps.pop('can_bus_used')
        part = {**_head(outputs), **_mid(taps), **{f'decoded/{k}': _array(v) for k, v in decoded.items()}}
        arrays |= {f'frame{index}/{key}': value for key, value in part.items()}
        arrays[f'frame{index}/can_bus_used'] = _array(used)
        sample.pred_instances_3d, sample.pred_map = agents, vectors
        sample.pred_ego = BaseDataElement(fut_preds=outputs['ego_fut_preds'][0])
        metrics = _metrics(sample)
        arrays[f'frame{index}/metric_keys'] = np.array(list(metrics))
        arrays[f'frame{index}/metric_values'] = np.array(list(metrics.values()))
    return arrays


def run_train(model: nn.Module, reference: Reference, case: str) -> Arrays:
    """Losses, gradient norms, assignments and outputs of one training step without dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    model.zero_grad()
    inputs, sample = reference.queue(case)
    with tapped(model) as taps:
        outputs = model.queue_outputs(inputs['img'], [sample])
    head = model.pts_bbox_head
    losses = model.criterion(outputs, [sample], head.code_weights, head.map_code_weights)
    # The original's order: the last layer, then the objects of the others, then their map vectors.
    order = sorted(losses, key=lambda name: (name.startswith('d'), name.startswith('d') and 'map' in name))
    losses = {name: losses[name] for name in order}
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    taps.pop('can_bus_used')
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    known = [name for name, grad in grads.items() if grad is not None]
    arrays: Arrays = {
        'loss_names': np.array(list(losses)),
        'loss_values': np.array([float(value.detach()) for value in losses.values()]),
        'loss_total': np.array(float(total.detach())),
        'grad_names': np.array(known),
        'grad_l2': np.array([float(grads[name].double().norm()) for name in known]),
        'grad_sum': np.array([float(grads[name].double().sum()) for name in known]),
        'grad_none_names': np.array([name for name, grad in grads.items() if grad is None], dtype=str),
        **{f'grad_full/{name}': _sample(_array(grads[name])) for name in known},
        **_head(outputs),
        **_mid(taps),
    }
    for kind, layers in zip(('assigner', 'map_assigner'), model.criterion.match(outputs, [sample])):
        queries = len(outputs['all_cls_scores' if kind == 'assigner' else 'map_all_cls_scores'][0, 0])
        for i, (match,) in enumerate(layers):
            arrays[f'assign/{kind}/layer{i}'] = _array(match.gt_inds(queries))
            if match.order_index is not None:
                arrays[f'orderindex/{kind}/layer{i}'] = _array(match.order_index)
    gt_map = sample.gt_map
    return arrays | {
        'map_gt/bbox': _array(gt_map.bboxes),
        'map_gt/labels': _array(gt_map.labels),
        'map_gt/fixed_num_sampled_points': _array(gt_map.pts[:, 0]),
        'map_gt/shift_fixed_num_sampled_points_v2': _array(gt_map.pts),
    }


@contextmanager
def tapped(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects what the network's modules put out; later calls of the same module are ``name#1``, ``name#2``, ..."""
    taps: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(name: str, value: Tensor) -> None:
        count = calls[name] = calls.get(name, -1) + 1
        taps[f'{name}#{count}' if count else name] = value.detach()

    def on(module: nn.Module, name: str, pick: Callable[[Any], Tensor] = lambda out: out) -> None:
        handles.append(module.register_forward_hook(lambda _, __, out: keep(name, pick(out))))

    def queries_first(out: Tensor) -> Tensor:
        return out.transpose(0, 1)

    handles: list = []
    head = model.pts_bbox_head
    perception = head.transformer
    on(model.img_backbone, 'img_backbone', lambda out: out[-1])
    on(model.img_neck, 'img_neck', lambda out: out[-1])
    on(head.positional_encoding, 'positional_encoding')
    on(perception.can_bus_mlp, 'can_bus_mlp')
    for i, layer in enumerate(perception.encoder.layers):
        on(layer.attentions[0], f'encoder.layer{i}.tsa')
        on(layer.attentions[1], f'encoder.layer{i}.sca')
        on(layer, f'encoder.layer{i}')
    for name in ('decoder', 'map_decoder'):
        for i, layer in enumerate(getattr(perception, name).layers):
            on(layer, f'{name}.layer{i}', queries_first)
    on(head.motion_decoder, 'motion_decoder', queries_first)
    on(head.motion_map_decoder.layers[-1], 'motion_map_decoder', lambda out: out.flatten(0, 1)[None])
    on(head.ego_agent_decoder, 'ego_agent_decoder', queries_first)
    on(head.ego_map_decoder, 'ego_map_decoder', queries_first)
    for name in ('lane_encoder', 'agent_fus_mlp', 'ego_fut_decoder'):
        on(getattr(head, name), name)

    def before_encoder(_: nn.Module, args: tuple) -> None:
        query, _, _, metas, bev_hw, _, shift, prev_bev = args
        keep('encoder.shift', shift)
        if prev_bev is not None:
            keep('encoder.prev_bev_after_rotation', queries_first(prev_bev))
        encoder = perception.encoder
        points = pillar_points(*bev_hw, encoder.num_points_in_pillar, encoder.pc_range, query)
        xy, inside = project_points(points, metas)
        keep('point_sampling.reference_points_cam', (xy * inside[..., None]).transpose(0, 1))
        keep('point_sampling.bev_mask', inside.transpose(0, 1).float())
        keep('point_sampling.hits_per_cam', inside.any(-1).sum((0, 2)).float())
        taps['can_bus_used'] = torch.from_numpy(np.array(metas[0]['can_bus'], dtype=np.float64))

    handles.append(perception.encoder.register_forward_pre_hook(before_encoder))
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _metrics(sample: Det3DDataSample) -> dict[str, float]:
    """Motion counts and planning metrics of one frame, in the original's order."""
    fields = {**sample.to_dict(), 'fut_valid_flag': True}
    motion = MotionTask().score(fields)
    planning = PlanningTask()
    counts = ('gt', 'cnt_ade', 'cnt_fde', 'hit', 'fp', 'ADE', 'FDE', 'MR')
    return {
        **{f'{count}_{kind}': float(motion[f'{count}_{kind}']) for count in counts for kind in ('car', 'pedestrian')},
        **{k: v for k, v in planning.summarize([planning.score(fields)]).items() if '_at_' not in k},
        'fut_valid_flag': 1.0,
    }


def _head(outputs: dict[str, Tensor]) -> Arrays:
    arrays = {f'head/{name}': _array(value) for name, value in outputs.items()}
    bev = outputs['bev_embed'].detach()
    return arrays | {
        'head/bev_embed/shape': np.array(bev.shape),
        'head/bev_embed/stats': _stats(_array(bev)),
        'head/bev_embed/strided': _array(bev[::37, 0, ::5]),
        'head/bev_embed/per_channel_mean': _array(bev[:, 0].double().mean(0)),
        'head/bev_embed/per_channel_std': _array(bev[:, 0].double().std(0, correction=0)),
    }


def _mid(taps: dict[str, Tensor]) -> Arrays:
    arrays: Arrays = {}
    for name, value in taps.items():
        array = _array(value)
        if name.split('#')[0] in ('encoder.shift', 'point_sampling.hits_per_cam'):
            arrays[f'mid/{name}/full'] = array
            continue
        arrays[f'mid/{name}/shape'] = np.array(array.shape)
        arrays[f'mid/{name}/stats'] = _stats(array)
        arrays[f'mid/{name}/sample'] = _sample(array)
    return arrays


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _sample(array: np.ndarray) -> np.ndarray:
    """At most 4096 elements at equal distances, in C order."""
    flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, _MAX_SAMPLES)).astype(np.int64)]


def _stats(array: np.ndarray) -> np.ndarray:
    """Number of elements, mean, standard deviation, mean of the absolute, minimum, maximum and L2 norm."""
    flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1).astype(np.float64)
    size, absolute = flat.size, np.abs(flat)
    return np.array([size, flat.mean(), flat.std(), absolute.mean(), flat.min(), flat.max(), np.sqrt((flat**2).sum())])


def _meta(meta: dict) -> dict:
    """A meta without the keys that mark the original's training flow."""
    return {key: value for key, value in meta.items() if key != 'prev_bev'}


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: a reference folder holds weight_rule.py and inputs.py')
    spec = importlib.util.spec_from_file_location(f'reference_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
