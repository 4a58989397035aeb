"""VAD's training losses: matching of every decoder layer, then detection, motion, map and planning losses.

The names of the losses and what they are divided by are those of the original VAD.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.utils import reduce_mean
from mmdet3d.registry import MODELS, TASK_UTILS
from mmdet3d.structures import Det3DDataSample
from torch import Tensor, nn

from .assigners import Assignment, resample
from .coders import (
    PC_RANGE,
    denormalize_points,
    denormalize_rects,
    normalize_boxes,
    normalize_points,
    normalize_rects,
)

Assignments = list[list[Assignment]]
"""``[layer][sample]``"""
Targets = list[dict[str, Tensor]]
"""The ground truth of each sample, see :meth:`VADCriterion._targets`."""

# The head's outputs that are read.
AGENT_KEYS = ('all_cls_scores', 'all_bbox_preds', 'all_traj_preds', 'all_traj_cls_scores')
MAP_KEYS = ('map_all_cls_scores', 'map_all_bbox_preds', 'map_all_pts_preds')


def build_loss(cfg: dict) -> nn.Module:
    """A loss from its config; a bare name that MMDetection3D does not know is looked up in MMDetection."""
    cfg = dict(cfg)
    if isinstance(cfg['type'], str) and '.' not in cfg['type'] and cfg['type'] not in MODELS.module_dict:
        cfg['type'] = f'mmdet.{cfg["type"]}'
    return MODELS.build(cfg)


@dataclass(frozen=True)
class MatchedLayer:
    """What one decoder layer says of agents or map vectors, and what is true. N matches, sample after sample.

    Attributes:
        outputs: Outputs of this layer, (B, Q, ...) each.
        matches: Of each sample.
        targets: Ground truth of each sample.
        num_cls: What classification losses are divided by.
        num_pos: What all other losses are divided by.
    """

    outputs: dict[str, Tensor]
    matches: list[Assignment]
    targets: Targets
    num_cls: Tensor
    num_pos: Tensor

    def index(self) -> tuple[Tensor, Tensor]:
        """(sample, query) of every match, (N,) each."""
        samples = [torch.full_like(match.queries, i) for i, match in enumerate(self.matches)]
        return torch.cat(samples), torch.cat([match.queries for match in self.matches])

    def predicted(self, key: str) -> Tensor:
        """An output of the matched queries, (N, ...)."""
        return self.outputs[key][self.index()]

    def true(self, key: str) -> Tensor:
        """The ground truth of every match, (N, ...)."""
        return torch.cat([target[key][match.gts] for match, target in zip(self.matches, self.targets)])

    def classify(self, loss: nn.Module, key: str, labels: Tensor, avg_factor: Tensor) -> Tensor:
        """Classification loss of the logits ``key`` (B, Q, C), labels (N,); queries without a match are background.

        The loss gets zeros and ones for labels: so it is the same torch expression on all devices.
        """
        logits = self.outputs[key]
        classes = logits.shape[-1]
        target = torch.full(logits.shape[:2], classes, device=logits.device)
        target[self.index()] = labels
        target = F.one_hot(target, classes + 1)[..., :classes]
        return loss(logits.flatten(0, 1), target.flatten(0, 1), avg_factor=avg_factor)


class VADCriterion(nn.Module):
    """Computes all losses of VAD from the head's outputs. It has neither parameters nor buffers.

    Args:
        loss_cls, loss_bbox, loss_traj, loss_traj_cls: configs of the agents' losses.
        loss_map_cls, loss_map_bbox, loss_map_iou, loss_map_pts, loss_map_dir: configs of the map vectors'
            losses.
        loss_plan_reg, loss_plan_bound, loss_plan_col, loss_plan_dir: configs of the plan's losses.
        assigner, map_assigner: configs of the matchers, ``train_cfg.pts`` of VAD's configs.
        pc_range: perception range in metres.
        valid_fut_ts: steps of the agents' future that are learnt.
        map_num_pts_per_gt_vec: points of a true map vector; predictions are resampled to it.
        map_dir_interval: steps between the points whose difference is a direction.
        sync_cls_avg_factor: divide the classification losses by the mean number of matches over all ranks,
            not by this rank's own; the other losses always use the mean.
        use_traj_lr_warmup, tot_epoch: fade in ``loss_traj`` by ``epoch / tot_epoch``; ``epoch`` is an
            attribute that :class:`~vadslim.vad.epoch_hook.SetEpochHook` sets.
    """

    def __init__(
        self,
        *,
        loss_cls: dict,
        loss_bbox: dict,
        loss_traj: dict,
        loss_traj_cls: dict,
        loss_map_cls: dict,
        loss_map_bbox: dict,
        loss_map_iou: dict,
        loss_map_pts: dict,
        loss_map_dir: dict,
        loss_plan_reg: dict,
        loss_plan_bound: dict,
        loss_plan_col: dict,
        loss_plan_dir: dict,
        assigner: dict,
        map_assigner: dict,
        pc_range: Sequence[float] = PC_RANGE,
        valid_fut_ts: int = 6,
        map_num_pts_per_gt_vec: int = 20,
        map_dir_interval: int = 1,
        sync_cls_avg_factor: bool = True,
        use_traj_lr_warmup: bool = False,
        tot_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if not all(cfg.get('use_sigmoid') for cfg in (loss_cls, loss_traj_cls, loss_map_cls)):
            raise ValueError('VADCriterion: loss_cls, loss_traj_cls and loss_map_cls need use_sigmoid=True')
        if use_traj_lr_warmup and not tot_epoch:
            raise ValueError('VADCriterion: use_traj_lr_warmup needs tot_epoch, the number of epochs')
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        self.loss_traj = build_loss(loss_traj)
        self.loss_traj_cls = build_loss(loss_traj_cls)
        self.loss_map_cls = build_loss(loss_map_cls)
        self.loss_map_bbox = build_loss(loss_map_bbox)
        self.loss_map_iou = build_loss(loss_map_iou)
        self.loss_map_pts = build_loss(loss_map_pts)
        self.loss_map_dir = build_loss(loss_map_dir)
        self.loss_plan_reg = build_loss(loss_plan_reg)
        self.loss_plan_bound = build_loss(loss_plan_bound)
        self.loss_plan_col = build_loss(loss_plan_col)
        self.loss_plan_dir = build_loss(loss_plan_dir)
        self.assigner = TASK_UTILS.build(assigner)
        self.map_assigner = TASK_UTILS.build(map_assigner)
        self.pc_range = tuple(pc_range)
        self.valid_fut_ts = valid_fut_ts
        self.map_num_pts_per_gt_vec = map_num_pts_per_gt_vec
        self.map_dir_interval = map_dir_interval
        self.sync_cls_avg_factor = sync_cls_avg_factor
        self.use_traj_lr_warmup = use_traj_lr_warmup
        self.tot_epoch = tot_epoch
        self.epoch: int | None = None

    @classmethod
    def from_head_cfg(cls, train_cfg: dict, **head_cfg: Any) -> VADCriterion:
        """Builds the criterion out of a head's keyword arguments and ``train_cfg.pts``; what else they hold
        is ignored.

        ``pc_range`` is that of ``bbox_coder`` unless it is given.
        """
        own = {name: head_cfg[name] for name in inspect.signature(cls).parameters if name in head_cfg}
        own.setdefault('pc_range', head_cfg.get('bbox_coder', {}).get('pc_range', PC_RANGE))
        return cls(assigner=train_cfg['assigner'], map_assigner=train_cfg['map_assigner'], **own)

    def forward(
        self,
        outputs: dict[str, Tensor],
        data_samples: Sequence[Det3DDataSample],
        code_weights: Tensor | None = None,
        map_code_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """All losses of a batch.

        Args:
            outputs: what VADHead returns: ``all_cls_scores`` (L, B, Q, C), ``all_bbox_preds`` (L, B, Q, 10),
                ``all_traj_preds`` (L, B, Q, M, 2 * T), ``all_traj_cls_scores`` (L, B, Q, M),
                ``map_all_cls_scores`` (L, B, V, 3), ``map_all_bbox_preds`` (L, B, V, 4),
                ``map_all_pts_preds`` (L, B, V, P, 2), ``ego_fut_preds`` (B, 3, T, 2).
            data_samples: per sample ``gt_instances_3d`` (``bboxes_3d`` (G, 9) with z of the bottom,
                ``labels_3d`` (G,), ``attr_labels`` (G, 34)), ``gt_map`` (``labels`` (N,), ``pts`` (N, S, P,
                2), ``bboxes`` (N, 4), metres) and ``gt_ego`` (``fut_trajs`` (T, 2) offsets, ``fut_masks``
                (T,), ``fut_cmd`` (3,)).
            code_weights: (10,) weights of the box code, by default 1 and 0.2 for the velocity.
            map_code_weights: (4,) weights of the rectangle, by default 1.

        Returns:
            ``loss_*`` of the last layer (``loss_traj*`` and ``loss_plan_*`` exist only there) and
            ``d{i}.loss_*`` of layer ``i``.
        """
        outputs = _single_precision(outputs)
        pred = outputs['all_bbox_preds']
        code_weights = pred.new_tensor([1.0] * 8 + [0.2] * 2) if code_weights is None else code_weights
        map_code_weights = pred.new_ones(4) if map_code_weights is None else map_code_weights
        targets = [self._targets(sample, pred.device) for sample in data_samples]
        agents, vectors = self._match(outputs, targets)
        counts = pred.new_tensor([sum(len(a.gts) for a in layer) for layer in (*agents, *vectors)])
        means = reduce_mean(counts).clamp(min=1)
        cls_counts = means if self.sync_cls_avg_factor else counts.clamp(min=1)

        def layers(keys: Sequence[str], matches: Assignments, first: int) -> list[MatchedLayer]:
            return [
                MatchedLayer({key: outputs[key][i] for key in keys}, match, targets, cls_counts[k], means[k])
                for i, (k, match) in enumerate(enumerate(matches, first))
            ]

        losses: dict[str, Tensor] = {}
        agent_layers = layers(AGENT_KEYS, agents, 0)
        for i, layer in enumerate(agent_layers):
            losses |= _prefixed(self._detection_losses(layer, code_weights), i, len(agents))
        losses |= self._motion_losses(agent_layers[-1])
        for i, layer in enumerate(layers(MAP_KEYS, vectors, len(agents))):
            losses |= _prefixed(self._map_losses(layer, map_code_weights), i, len(vectors))
        losses |= self._planning_losses(outputs, targets)
        return {name: torch.nan_to_num(loss) for name, loss in losses.items()}

    @torch.no_grad()
    def match(
        self, outputs: dict[str, Tensor], data_samples: Sequence[Det3DDataSample]
    ) -> tuple[Assignments, Assignments]:
        """The matches of agents and of map vectors, ``[layer][sample]``; arguments as in :meth:`forward`."""
        outputs = _single_precision(outputs)
        device = outputs['all_bbox_preds'].device
        return self._match(outputs, [self._targets(sample, device) for sample in data_samples])

    @staticmethod
    def _targets(sample: Det3DDataSample, device: torch.device) -> dict[str, Tensor]:
        """The ground truth of a sample as plain tensors; boxes with z of the gravity centre."""
        agents, vectors, ego = sample.gt_instances_3d, sample.gt_map, sample.gt_ego
        boxes = agents.bboxes_3d.clone()
        boxes[:, 2] += boxes[:, 5] * 0.5
        targets = {
            'labels': agents.labels_3d,
            'boxes': boxes,
            'attrs': agents.attr_labels,
            'map_labels': vectors.labels,
            'map_points': vectors.pts,
            'map_rects': vectors.bboxes,
            'ego_trajs': ego.fut_trajs,
            'ego_masks': ego.fut_masks,
            'ego_cmd': ego.fut_cmd,
        }
        return {name: value.to(device) for name, value in targets.items()}

    def _match(self, outputs: dict[str, Tensor], targets: Targets) -> tuple[Assignments, Assignments]:
        agents = [
            [self.assigner.assign(s, b, t['labels'], t['boxes']) for s, b, t in zip(scores, boxes, targets)]
            for scores, boxes in zip(outputs['all_cls_scores'], outputs['all_bbox_preds'])
        ]
        vectors = [
            [
                self.map_assigner.assign(s, r, p, t['map_labels'], t['map_rects'], t['map_points'])
                for s, r, p, t in zip(*layer, targets)
            ]
            for layer in zip(*(outputs[key] for key in MAP_KEYS))
        ]
        return agents, vectors

    def _detection_losses(self, layer: MatchedLayer, code_weights: Tensor) -> dict[str, Tensor]:
        code, finite = self._box_codes(layer)
        pred = layer.predicted('all_bbox_preds')[finite]
        weight = code_weights.expand_as(pred)
        return {
            'loss_cls': layer.classify(self.loss_cls, 'all_cls_scores', layer.true('labels'), layer.num_cls),
            'loss_bbox': self.loss_bbox(pred, code[finite], weight, avg_factor=layer.num_pos),
        }

    @staticmethod
    def _box_codes(layer: MatchedLayer) -> tuple[Tensor, Tensor]:
        """Box codes (N, 10) of the matched agents and (N,) which are finite: the others are not regressed."""
        code = normalize_boxes(layer.true('boxes'))
        return code, code.isfinite().all(-1)

    def _motion_losses(self, layer: MatchedLayer) -> dict[str, Tensor]:
        """Only the mode that ends nearest to the true end is regressed; it is the label of the scores too."""
        pred = layer.predicted('all_traj_preds')  # (N, M, 2 * T)
        steps = pred.shape[-1] // 2
        attrs = layer.true('attrs')
        target, mask = attrs[:, : 2 * steps], attrs[:, 2 * steps : 3 * steps]
        with torch.no_grad():
            ends = pred.unflatten(-1, (steps, 2)).sum(-2) - target.unflatten(-1, (steps, 2)).sum(-2)[:, None]
            best = (torch.linalg.norm(ends, dim=-1) * mask[:, -1:]).nan_to_num().argmin(-1)
        finite = self._box_codes(layer)[1]
        weight = mask.clone()
        weight[:, self.valid_fut_ts :] = 0
        weight = weight.repeat_interleave(2, -1)
        regressed = pred[torch.arange(len(pred), device=pred.device), best]
        loss = self.loss_traj(regressed[finite], target[finite], weight[finite], avg_factor=layer.num_pos)
        if self.use_traj_lr_warmup:
            if self.epoch is None:
                raise RuntimeError("use_traj_lr_warmup needs custom_hooks=[dict(type='CustomSetEpochInfoHook')]")
            loss = loss * _traj_warmup(self.epoch / self.tot_epoch)
        loss_cls = layer.classify(self.loss_traj_cls, 'all_traj_cls_scores', best, layer.num_pos)
        return {'loss_traj': loss, 'loss_traj_cls': loss_cls}

    def _map_losses(self, layer: MatchedLayer, code_weights: Tensor) -> dict[str, Tensor]:
        rects = layer.predicted('map_all_bbox_preds')
        points = resample(layer.predicted('map_all_pts_preds'), self.map_num_pts_per_gt_vec)
        gt_rects = layer.true('map_rects')
        gt_points = torch.cat([t['map_points'][m.gts, m.orders] for m, t in zip(layer.matches, layer.targets)])
        code = normalize_rects(gt_rects, self.pc_range)
        finite = code.isfinite().all(-1)
        rects, points, code = rects[finite], points[finite], code[finite]
        gt_rects, gt_points = gt_rects[finite], gt_points[finite]
        step = self.map_dir_interval
        directions = denormalize_points(points, self.pc_range)
        directions = directions[:, step:] - directions[:, :-step]
        gt_directions = gt_points[:, step:] - gt_points[:, :-step]
        weight = code_weights.expand_as(rects)
        corners = denormalize_rects(rects, self.pc_range)
        true_points, number = normalize_points(gt_points, self.pc_range), layer.num_pos
        return {
            'loss_map_cls': layer.classify(
                self.loss_map_cls, 'map_all_cls_scores', layer.true('map_labels'), layer.num_cls
            ),
            'loss_map_bbox': self.loss_map_bbox(rects, code, weight, avg_factor=number),
            'loss_map_iou': self.loss_map_iou(corners, gt_rects, weight, avg_factor=number),
            'loss_map_pts': self.loss_map_pts(points, true_points, avg_factor=number),
            'loss_map_dir': self.loss_map_dir(directions, gt_directions, avg_factor=number),
        }

    def _planning_losses(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        plans = outputs['ego_fut_preds']
        truth, masks, cmd = (torch.stack([t[key] for t in targets]) for key in ('ego_trajs', 'ego_masks', 'ego_cmd'))
        plan = plans[torch.arange(len(plans), device=plans.device), cmd.argmax(-1)]
        weight = (cmd[:, :, None, None] * masks[:, None, :, None]).expand_as(plans)
        lanes = outputs['map_all_pts_preds'][-1], outputs['map_all_cls_scores'][-1].sigmoid()
        loss_col = self.loss_plan_col(
            plan,
            outputs['all_bbox_preds'][-1][..., :2],
            outputs['all_traj_preds'][-1].unflatten(-1, (-1, 2)),
            outputs['all_cls_scores'][-1].sigmoid(),
            outputs['all_traj_cls_scores'][-1].sigmoid(),
            weight=masks[..., None].expand_as(plan),
        )
        return {
            'loss_plan_reg': self.loss_plan_reg(plans, truth[:, None].expand_as(plans), weight),
            'loss_plan_bound': self.loss_plan_bound(plan, *lanes, weight=masks),
            'loss_plan_col': loss_col,
            'loss_plan_dir': self.loss_plan_dir(plan, *lanes, weight=masks),
        }


def _single_precision(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The outputs that are read, in float32: logarithms and matching costs are not for half precision."""
    return {name: outputs[name].float() for name in (*AGENT_KEYS, *MAP_KEYS, 'ego_fut_preds')}


def _prefixed(losses: dict[str, Tensor], i: int, num_layers: int) -> dict[str, Tensor]:
    """The last layer's losses keep their names, those of layer ``i`` become ``d{i}.loss_*``."""
    return losses if i == num_layers - 1 else {f'd{i}.{name}': loss for name, loss in losses.items()}


def _traj_warmup(progress: float, start: float = 0.3, end: float = 0.35, height: float = 1.1) -> float:
    """Factor of the trajectory loss: a sigmoid step to ``height`` between two fractions of the training."""
    x = (5 * progress - 2.5 * (start + end)) / (end - start)
    return height * float(torch.sigmoid(torch.tensor(x)))
