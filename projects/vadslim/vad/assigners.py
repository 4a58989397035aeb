"""One-to-one matching of predictions and ground truth for one sample and one decoder layer.

A cost maps (predictions, ground truth) to a matrix (Q, G); an assigner sums its costs and solves the
assignment with the Hungarian method. The names of VAD's original configs are registered too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps, bbox_xyxy_to_cxcywh
from mmdet3d.registry import TASK_UTILS
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .coders import PC_RANGE, denormalize_rects, normalize_boxes, normalize_points, normalize_rects

# Stands for a cost that is no number, so that such a pair is taken only when nothing else is left.
_WORST = 1e6


@dataclass(frozen=True)
class Assignment:
    """The matched pairs of one sample and layer.

    Attributes:
        queries: (N,) int64, matched queries in ascending order.
        gts: (N,) int64, the ground truth of each.
        orders: (N,) int64, for map vectors the best equivalent ordering of each ground truth's points, else
            None.
        order_index: (Q, G) int64, the best ordering of every pair, matched or not, else None.
    """

    queries: Tensor
    gts: Tensor
    order_index: Tensor | None = None

    @property
    def orders(self) -> Tensor | None:
        return None if self.order_index is None else self.order_index[self.queries, self.gts]

    def gt_inds(self, num_queries: int) -> Tensor:
        """(num_queries,) int64 as mmdet writes it: 0 is background, i + 1 is ground truth i."""
        inds = self.queries.new_zeros(num_queries)
        inds[self.queries] = self.gts + 1
        return inds


def hungarian(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one pairs of a cost matrix (Q, G): rows in ascending order and their columns
    (min(Q, G),).

    Entries that are not finite cost more than every finite one; a diverged prediction does not stop the
    training.
    """
    matrix = cost.detach().cpu().double().numpy()
    matrix = np.where(np.isfinite(matrix), matrix, _WORST)
    rows, columns = linear_sum_assignment(matrix)
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(columns).to(cost.device)


@TASK_UTILS.register_module(name=['VADFocalLossCost', 'FocalLossCost'])
class FocalLossCost:
    """What the focal loss of a query changes by if it gets the ground truth's label.

    Args:
        weight: factor of the cost.
        alpha: weight of positives.
        gamma: focusing exponent.
        eps: keeps the logarithms finite.
    """

    def __init__(self, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12) -> None:
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma
        self.eps = eps

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (Q, C) and labels (G,) -> (Q, G)."""
        p = logits.sigmoid()
        negative = -(1 - p + self.eps).log() * (1 - self.alpha) * p.pow(self.gamma)
        positive = -(p + self.eps).log() * self.alpha * (1 - p).pow(self.gamma)
        return (positive - negative)[:, labels] * self.weight


@TASK_UTILS.register_module(name=['VADBoxL1Cost', 'BBox3DL1Cost'])
class BBox3DL1Cost:
    """L1 distance of box codes (Q, C) and (G, C) -> (Q, G)."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, code: Tensor, gt_code: Tensor) -> Tensor:
        return torch.cdist(code, gt_code, p=1) * self.weight


@TASK_UTILS.register_module(name=['VADRectL1Cost', 'BBoxL1Cost'])
class BBoxL1Cost:
    """L1 distance of rectangles: predictions (Q, 4) as cx, cy, w, h and ground truth (G, 4) as corners -> (Q,
    G).

    Args:
        weight: factor of the cost.
        box_format: 'xyxy' compares corners, 'xywh' centre and size.
    """

    def __init__(self, weight: float = 1.0, box_format: str = 'xyxy') -> None:
        if box_format not in ('xyxy', 'xywh'):
            raise ValueError(f"BBoxL1Cost: box_format is {box_format!r}, allowed: 'xyxy', 'xywh'")
        self.weight = weight
        self.box_format = box_format

    def __call__(self, rects: Tensor, gt_rects: Tensor) -> Tensor:
        if self.box_format == 'xywh':
            gt_rects = bbox_xyxy_to_cxcywh(gt_rects)
        else:
            rects = bbox_cxcywh_to_xyxy(rects)
        return torch.cdist(rects, gt_rects, p=1) * self.weight


@TASK_UTILS.register_module(name=['VADRectIoUCost', 'IoUCost'])
class IoUCost:
    """Negative overlap of rectangles given by corners, (Q, 4) and (G, 4) -> (Q, G).

    Args:
        weight: factor of the cost.
        iou_mode: 'iou' or 'giou'.
    """

    def __init__(self, weight: float = 1.0, iou_mode: str = 'giou') -> None:
        if iou_mode not in ('iou', 'giou'):
            raise ValueError(f"IoUCost: iou_mode is {iou_mode!r}, allowed: 'iou', 'giou'")
        self.weight = weight
        self.iou_mode = iou_mode

    def __call__(self, rects: Tensor, gt_rects: Tensor) -> Tensor:
        return -bbox_overlaps(rects, gt_rects, mode=self.iou_mode) * self.weight


@TASK_UTILS.register_module(name=['VADOrderedPtsL1Cost', 'OrderedPtsL1Cost'])
class OrderedPtsL1Cost:
    """L1 distance of point sequences to every equivalent ordering of the ground truth's points."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, points: Tensor, gt_points: Tensor) -> Tensor:
        """Points (Q, P, 2) and (G, S, P, 2) -> (Q, G, S)."""
        num_gts, num_orders = gt_points.shape[:2]
        cost = torch.cdist(points.flatten(1), gt_points.flatten(2).flatten(0, 1), p=1)
        return cost.view(len(points), num_gts, num_orders) * self.weight


def build_cost(cfg: dict):
    """A match cost from its config. A cost of zero weight is None: it changes nothing and is not computed."""
    cost = TASK_UTILS.build(cfg)
    return cost if cost.weight else None


@TASK_UTILS.register_module(name=['VADHungarianAssigner', 'HungarianAssigner3D'])
class VADHungarianAssigner:
    """Matches agents by class and box (centre, size, heading; velocity does not count).

    Args:
        cls_cost: config of the classification cost.
        reg_cost: config of the box cost, taken of box codes.
        iou_cost: accepted for the configs' sake; its weight must be 0.
        pc_range: accepted for the configs' sake; box codes are in metres.
    """

    def __init__(
        self,
        cls_cost: dict,
        reg_cost: dict,
        iou_cost: dict | None = None,
        pc_range: Sequence[float] = PC_RANGE,
    ) -> None:
        if iou_cost is not None and iou_cost.get('weight', 0):
            raise ValueError(
                f'VADHungarianAssigner: iou_cost.weight is {iou_cost["weight"]}, only 0 is allowed: '
                'there is no overlap cost of rotated boxes'
            )
        self.cls_cost = build_cost(cls_cost)
        self.reg_cost = build_cost(reg_cost)

    @torch.no_grad()
    def assign(self, logits: Tensor, code: Tensor, gt_labels: Tensor, gt_boxes: Tensor) -> Assignment:
        """Matches one sample.

        Args:
            logits: (Q, num_classes).
            code: (Q, 10) box codes, see ``coders.normalize_boxes``.
            gt_labels: (G,) int64.
            gt_boxes: (G, 9) raw numbers with z of the gravity centre.
        """
        cost = logits.new_zeros(len(code), len(gt_boxes))
        if self.cls_cost is not None:
            cost += self.cls_cost(logits, gt_labels)
        if self.reg_cost is not None:
            cost += self.reg_cost(code[:, :8], normalize_boxes(gt_boxes)[:, :8])
        return Assignment(*hungarian(cost))


@TASK_UTILS.register_module(name=['VADMapHungarianAssigner', 'MapHungarianAssigner3D'])
class VADMapHungarianAssigner:
    """Matches map vectors by class, points (in the ordering that fits best) and the rectangle around them.

    Args:
        cls_cost: config of the classification cost.
        reg_cost: config of the L1 cost of normalised rectangles. As in the original it gets the ground truth
            as cx, cy, w, h, whatever the cost makes of it; VAD's configs give it the weight 0.
        iou_cost: config of the overlap cost of rectangles in metres.
        pts_cost: config of the points' cost.
        pc_range: perception range in metres.
    """

    def __init__(
        self,
        cls_cost: dict,
        reg_cost: dict,
        iou_cost: dict,
        pts_cost: dict,
        pc_range: Sequence[float] = PC_RANGE,
    ) -> None:
        self.cls_cost = build_cost(cls_cost)
        self.reg_cost = build_cost(reg_cost)
        self.iou_cost = build_cost(iou_cost)
        self.pts_cost = TASK_UTILS.build(pts_cost)  # also without weight: it chooses the ordering
        self.pc_range = tuple(pc_range)

    @torch.no_grad()
    def assign(
        self,
        logits: Tensor,
        rects: Tensor,
        points: Tensor,
        gt_labels: Tensor,
        gt_rects: Tensor,
        gt_points: Tensor,
    ) -> Assignment:
        """Matches one sample.

        Args:
            logits: (V, num_map_classes).
            rects: (V, 4) normalised cx, cy, w, h.
            points: (V, P, 2) normalised; resampled if the ground truth has another number of points.
            gt_labels: (G,) int64.
            gt_rects: (G, 4) corners in metres.
            gt_points: (G, S, P', 2) metres, all equivalent orderings.
        """
        if not len(gt_labels):
            none = torch.zeros(0, dtype=torch.long, device=logits.device)
            return Assignment(none, none, none.new_zeros(len(logits), 0))
        points = resample(points, gt_points.shape[2])
        pts_cost, order_index = self.pts_cost(points, normalize_points(gt_points, self.pc_range)).min(-1)
        cost = pts_cost
        if self.cls_cost is not None:
            cost = cost + self.cls_cost(logits, gt_labels)
        if self.reg_cost is not None:
            cost = cost + self.reg_cost(rects, normalize_rects(gt_rects, self.pc_range))
        if self.iou_cost is not None:
            cost = cost + self.iou_cost(denormalize_rects(rects, self.pc_range), gt_rects)
        return Assignment(*hungarian(cost), order_index)


def resample(points: Tensor, num_points: int) -> Tensor:
    """Sequences (N, P, 2) with ``num_points`` points each, linearly between neighbours, the ends kept."""
    if points.shape[1] == num_points:
        return points
    points = F.interpolate(points.transpose(1, 2), size=num_points, mode='linear', align_corners=True)
    return points.transpose(1, 2)
