"""From the head's numbers to boxes and map vectors in metres, and back.

Frame: lidar (x right, y forward, z up). A box is VAD's raw row [x, y, z, w, l, h, yaw, vx, vy] as mmdet3d
0.17 had it, never an mmdet3d 1.x box object (see ``boxes.py`` for those). What the head regresses for it is
[cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy] with the gravity centre, in metres. Map points and
the (cx, cy, w, h) rectangles around them are normalised to [0, 1] over the perception range.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmdet3d.registry import TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

PC_RANGE = (-15.0, -30.0, -2.0, 15.0, 30.0, 2.0)
"""VAD's perception range in metres: x_min, y_min, z_min, x_max, y_max, z_max."""


def normalize_boxes(boxes: Tensor) -> Tensor:
    """Boxes (..., 9 or 7) with z of the gravity centre -> what the head regresses for them (..., 10 or 8).

    A box without extent has no logarithm: its row is not finite.
    """
    x, y, z, w, l, h, yaw = boxes[..., :7].unbind(-1)  # noqa: E741
    code = torch.stack([x, y, w.log(), l.log(), z, h.log(), yaw.sin(), yaw.cos()], -1)
    return torch.cat([code, boxes[..., 7:]], -1)


def denormalize_boxes(code: Tensor) -> Tensor:
    """Inverse of :func:`normalize_boxes`: (..., 10 or 8) -> (..., 9 or 7); yaw comes back in (-pi, pi]."""
    x, y, w, l, z, h, sin, cos = code[..., :8].unbind(-1)  # noqa: E741
    boxes = torch.stack([x, y, z, w.exp(), l.exp(), h.exp(), torch.atan2(sin, cos)], -1)
    return torch.cat([boxes, code[..., 8:]], -1)


def _origin_and_size(like: Tensor, pc_range: Sequence[float]) -> tuple[Tensor, Tensor]:
    x_min, y_min, _, x_max, y_max, _ = pc_range
    return like.new_tensor([x_min, y_min]), like.new_tensor([x_max - x_min, y_max - y_min])


def normalize_points(points: Tensor, pc_range: Sequence[float] = PC_RANGE) -> Tensor:
    """Points (..., 2) in metres -> [0, 1] over the range."""
    origin, size = _origin_and_size(points, pc_range)
    return (points - origin) / size


def denormalize_points(points: Tensor, pc_range: Sequence[float] = PC_RANGE) -> Tensor:
    """Points (..., 2) in [0, 1] -> metres."""
    origin, size = _origin_and_size(points, pc_range)
    return points * size + origin


def normalize_rects(rects: Tensor, pc_range: Sequence[float] = PC_RANGE) -> Tensor:
    """Rectangles (..., 4) x_min, y_min, x_max, y_max in metres -> cx, cy, w, h in [0, 1]."""
    origin, size = _origin_and_size(rects, pc_range)
    centre, extent = bbox_xyxy_to_cxcywh(rects).split(2, -1)
    return torch.cat([(centre - origin) / size, extent / size], -1)


def denormalize_rects(rects: Tensor, pc_range: Sequence[float] = PC_RANGE) -> Tensor:
    """Rectangles (..., 4) cx, cy, w, h in [0, 1] -> x_min, y_min, x_max, y_max in metres."""
    origin, size = _origin_and_size(rects, pc_range)
    return bbox_cxcywh_to_xyxy(rects) * size.repeat(2) + origin.repeat(2)


class _TopKCoder:
    """Decodes without NMS: the best (query, class) pairs, kept if inside a range.

    Args:
        pc_range: perception range in metres.
        post_center_range: limits of what is kept, all lower ones first; None keeps everything.
        max_num: pairs taken per sample.
        score_threshold: pairs of a lower score are dropped. If nothing reaches it, it is lowered by steps of
            10 % until something does, and below 0.01 everything is kept. None or 0: no threshold.
        num_classes: number of classes, checked against the scores.
        voxel_size: accepted for the configs' sake; nothing here is voxelised.
    """

    def __init__(
        self,
        pc_range: Sequence[float] = PC_RANGE,
        voxel_size: Sequence[float] | None = None,
        post_center_range: Sequence[float] | None = None,
        max_num: int = 100,
        score_threshold: float | None = None,
        num_classes: int = 10,
    ) -> None:
        self.pc_range = tuple(pc_range)
        self.post_center_range = post_center_range
        self.max_num = max_num
        self.score_threshold = score_threshold
        self.num_classes = num_classes

    def _best(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and queries, best first, of the best pairs of logits (Q, num_classes)."""
        if logits.shape[-1] != self.num_classes:
            raise ValueError(
                f'{type(self).__name__}: num_classes is {self.num_classes}, the scores have {logits.shape[-1]} classes'
            )
        flat = logits.sigmoid().flatten()
        scores, index = flat.topk(min(self.max_num, flat.numel()))
        return scores, index % self.num_classes, index // self.num_classes

    def _kept(self, scores: Tensor, values: Tensor) -> Tensor:
        """Mask (K,) of values (K, C) inside ``post_center_range`` (2 * C numbers) and above the threshold."""
        keep = torch.ones_like(scores, dtype=torch.bool)
        if self.post_center_range is not None:
            lower, upper = values.new_tensor(self.post_center_range).chunk(2)
            keep = ((values >= lower) & (values <= upper)).all(-1)
        if self.score_threshold and scores.numel():
            threshold = self.score_threshold
            above = scores > threshold
            while not above.any():
                threshold *= 0.9
                above = scores >= threshold if threshold >= 0.01 else torch.ones_like(above)
            keep &= above
        return keep


@TASK_UTILS.register_module(name=['VADBoxCoder', 'CustomNMSFreeCoder'])
class VADBoxCoder(_TopKCoder):
    """Decodes agents: boxes, scores, labels and trajectories (see :class:`_TopKCoder` for the arguments)."""

    def decode(self, outputs: dict[str, Tensor]) -> list[InstanceData]:
        """The agents of each sample, from the last decoder layer.

        Args:
            outputs: ``all_cls_scores`` (L, B, Q, num_classes) logits, ``all_bbox_preds`` (L, B, Q, 10),
                ``all_traj_preds`` (L, B, Q, M, 2 * T) offsets per step in metres, ``all_traj_cls_scores`` (L, B,
                Q, M) logits.

        Returns:
            per sample ``bboxes_3d`` (K, 9) with z of the **bottom**, ``scores_3d`` (K,), ``labels_3d`` (K,),
            ``trajs_3d`` (K, M, 2 * T) and ``traj_scores_3d`` (K, M) in [0, 1], best first.
        """
        keys = ('all_cls_scores', 'all_bbox_preds', 'all_traj_preds', 'all_traj_cls_scores')
        return [self._decode_sample(*sample) for sample in zip(*(outputs[key][-1].float() for key in keys))]

    def _decode_sample(self, logits: Tensor, code: Tensor, trajs: Tensor, modes: Tensor) -> InstanceData:
        scores, labels, query = self._best(logits)
        boxes = denormalize_boxes(code[query])
        keep = self._kept(scores, boxes[:, :3])  # the range limits the gravity centre
        boxes[:, 2] -= boxes[:, 5] * 0.5
        return InstanceData(
            bboxes_3d=boxes[keep],
            scores_3d=scores[keep],
            labels_3d=labels[keep],
            trajs_3d=trajs[query][keep],
            traj_scores_3d=modes.sigmoid()[query][keep],
        )


@TASK_UTILS.register_module(name=['VADMapCoder', 'MapNMSFreeCoder'])
class VADMapCoder(_TopKCoder):
    """Decodes map vectors (see :class:`_TopKCoder` for the arguments).

    ``post_center_range`` limits x_min, y_min, x_max, y_max of the rectangle around a vector.
    """

    def decode(self, outputs: dict[str, Tensor]) -> list[InstanceData]:
        """The map vectors of each sample, from the last decoder layer.

        Args:
            outputs: ``map_all_cls_scores`` (L, B, V, num_map_classes) logits, ``map_all_bbox_preds`` (L, B,
                V, 4) and ``map_all_pts_preds`` (L, B, V, P, 2), both normalised.

        Returns:
            per sample ``pts`` (K, P, 2) and ``bboxes`` (K, 4) xyxy in metres, ``scores`` (K,), ``labels``
            (K,), best first.
        """
        keys = ('map_all_cls_scores', 'map_all_bbox_preds', 'map_all_pts_preds')
        return [self._decode_sample(*sample) for sample in zip(*(outputs[key][-1].float() for key in keys))]

    def _decode_sample(self, logits: Tensor, rects: Tensor, points: Tensor) -> InstanceData:
        scores, labels, query = self._best(logits)
        rects = denormalize_rects(rects[query], self.pc_range)
        keep = self._kept(scores, rects)
        points = denormalize_points(points[query], self.pc_range)
        return InstanceData(pts=points[keep], bboxes=rects[keep], scores=scores[keep], labels=labels[keep])
