"""Constraints on the planned ego trajectory: stay off road boundaries, away from agents, along the lanes.

After VAD (Jiang et al., ICCV 2023, sec. 3.4). All three take the plan of the commanded mode as per-step
offsets in metres (lidar frame, x right, y forward) and read the model's own predicted map and agents, so that
their gradients reach the perception branches too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from .coders import PC_RANGE, denormalize_points

# Where predictions that do not count are moved to: farther than any threshold, yet with finite arithmetic.
_FAR = 1e6
_NUM_VEHICLE_CLASSES = 5  # car, truck, construction_vehicle, bus, trailer come first in VAD's class list


def _reduce(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Weights ``loss`` element by element; 'mean' counts the elements of zero weight as well."""
    if weight is not None:
        loss = loss * weight
    return {'mean': loss.mean, 'sum': loss.sum, 'none': lambda: loss}[reduction]()


def _hinge(distance: Tensor, threshold: float) -> Tensor:
    """How far ``distance`` is below ``threshold``, zero above it."""
    return torch.where(distance <= threshold, threshold - distance, torch.zeros_like(distance))


def _segments_intersect(start_a: Tensor, end_a: Tensor, start_b: Tensor, end_b: Tensor) -> Tensor:
    """Whether segments a and b (..., 2) meet, ends included; parallel ones never do. Returns (...) bool."""
    a, b, gap = end_a - start_a, end_b - start_b, start_b - start_a
    det = a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1]
    on_a = (gap[..., 0] * b[..., 1] - gap[..., 1] * b[..., 0]) / det
    on_b = (gap[..., 0] * a[..., 1] - gap[..., 1] * a[..., 0]) / det
    return (det != 0) & (on_a >= 0) & (on_a <= 1) & (on_b >= 0) & (on_b <= 1)


class _PlanLoss(nn.Module):
    """What the three constraints share: reduction and weight.

    Args:
        reduction: 'mean', 'sum' or 'none'.
        loss_weight: factor of the reduced loss.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in ('mean', 'sum', 'none'):
            raise ValueError(f"{type(self).__name__}: reduction is {reduction!r}, allowed: 'mean', 'sum', 'none'")
        self.reduction = reduction
        self.loss_weight = loss_weight

    def _finish(self, loss: Tensor, weight: Tensor | None) -> Tensor:
        return self.loss_weight * _reduce(loss, weight, self.reduction)


class _PlanMapLoss(_PlanLoss):
    """A plan loss that reads the map vectors of one class.

    Args:
        cls_idx: index of the map class.
        dis_thresh: metres within which a vector acts on the plan.
        map_thresh: vectors whose score of ``cls_idx`` is below this do not count.
        point_cloud_range: [x_min, y_min, z_min, x_max, y_max, z_max] in metres, for denormalising the map
            points.
        perception_detach: keep the gradient from the map branch.
        **kwargs: of :class:`_PlanLoss`.
    """

    def __init__(
        self,
        cls_idx: int,
        dis_thresh: float,
        map_thresh: float = 0.5,
        point_cloud_range: Sequence[float] = PC_RANGE,
        perception_detach: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.cls_idx = cls_idx
        self.dis_thresh = dis_thresh
        self.map_thresh = map_thresh
        self.pc_range = tuple(point_cloud_range)
        self.perception_detach = perception_detach

    def _vectors(self, lane_preds: Tensor, lane_score_preds: Tensor) -> Tensor:
        """The map points in metres (B, V, P, 2); those of other classes or of low confidence are far away."""
        if self.perception_detach:
            lane_preds = lane_preds.detach()
        ignored = lane_score_preds[..., self.cls_idx] < self.map_thresh
        return denormalize_points(lane_preds, self.pc_range).masked_fill(ignored[..., None, None], _FAR)


def _nearest_vector(distance: Tensor, vectors: Tensor) -> Tensor:
    """The vector with the nearest point: distance (B, T, V, P), vectors (B, V, P, 2) -> (B, T, P, 2)."""
    nearest = distance.amin(-1).argmin(-1)
    return vectors[torch.arange(len(vectors), device=vectors.device)[:, None], nearest]


@MODELS.register_module()
class PlanMapBoundLoss(_PlanMapLoss):
    """Pushes the plan away from the nearest point of a road boundary.

    The loss of a step is how far its distance is below ``dis_thresh``. From the first step on whose segment
    crosses the nearest boundary the loss is zero: beyond it, the push would point the wrong way.

    Args:
        lane_bound_cls_idx: index of the class of road boundaries.
        dis_thresh: metres to keep from a boundary.
        **kwargs: of :class:`_PlanMapLoss` and :class:`_PlanLoss`.
    """

    def __init__(self, lane_bound_cls_idx: int = 2, dis_thresh: float = 1.0, **kwargs) -> None:
        super().__init__(lane_bound_cls_idx, dis_thresh, **kwargs)

    def forward(
        self,
        ego_fut_preds: Tensor,
        lane_preds: Tensor,
        lane_score_preds: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch of plans.

        Args:
            ego_fut_preds: (B, T, 2) offsets per step, metres.
            lane_preds: (B, V, P, 2) map points, normalised to [0, 1] over the range.
            lane_score_preds: (B, V, num_map_classes) scores after the sigmoid.
            weight: (B, T) weight of each step.
        """
        ends = ego_fut_preds.cumsum(-2)
        boundaries = self._vectors(lane_preds, lane_score_preds)
        distance = torch.linalg.norm(ends[:, :, None, None] - boundaries[:, None], dim=-1)
        with torch.no_grad():
            starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
            nearest = _nearest_vector(distance, boundaries)
            crosses = _segments_intersect(
                starts[:, :, None], ends[:, :, None], nearest[:, :, :-1], nearest[:, :, 1:]
            ).any(-1)
            beyond = crosses.cumsum(-1) > 0
        loss = _hinge(distance.flatten(2).min(-1).values, self.dis_thresh)
        return self._finish(loss.masked_fill(beyond, 0), weight)


@MODELS.register_module()
class PlanMapDirectionLoss(_PlanMapLoss):
    """Turns the plan's heading to the direction of the nearest lane divider.

    The loss of a step is the angle in radians (folded to [0, pi/2], a divider has no sense of direction)
    between the step that follows and the divider at its nearest point. Zero where no divider is within
    ``dis_thresh`` and for plans that move less than one metre.

    Args:
        lane_div_cls_idx: index of the class of lane dividers.
        dis_thresh: metres within which a divider directs the plan.
        **kwargs: of :class:`_PlanMapLoss` and :class:`_PlanLoss`.
    """

    def __init__(self, lane_div_cls_idx: int = 0, dis_thresh: float = 2.0, **kwargs) -> None:
        super().__init__(lane_div_cls_idx, dis_thresh, **kwargs)

    def forward(
        self,
        ego_fut_preds: Tensor,
        lane_preds: Tensor,
        lane_score_preds: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch of plans; the arguments are those of :class:`PlanMapBoundLoss`."""
        plan = ego_fut_preds.cumsum(-2)
        dividers = self._vectors(lane_preds, lane_score_preds)
        with torch.no_grad():
            distance = torch.linalg.norm(plan[:, :, None, None] - dividers[:, None], dim=-1)
        nearest = _nearest_vector(distance, dividers)
        with torch.no_grad():
            gap, point = torch.linalg.norm(plan[:, :, None] - nearest, dim=-1).min(-1)
            last = nearest.shape[2] - 1
            neighbour = torch.where(point == last, last - 1, point + 1)
            ignored = gap > self.dis_thresh
            ignored |= (torch.linalg.norm(plan[:, -1] - plan[:, 0], dim=-1) < 1.0)[:, None]
        lane = torch.diff(nearest.take_along_dim(torch.stack([point, neighbour], -1)[..., None], 2), dim=2).squeeze(2)
        step = torch.diff(plan, dim=1)
        heading = torch.atan2(step[..., 1], step[..., 0])
        heading = torch.cat([heading, heading[:, -1:]], -1)  # nothing follows the last step: it keeps its heading
        angle = heading - torch.atan2(lane[..., 1], lane[..., 0])
        angle = torch.where(angle > math.pi, angle - math.pi, angle)
        angle = torch.where(angle > math.pi / 2, angle - math.pi, angle)
        angle = torch.where(angle < -math.pi, angle + math.pi, angle)
        angle = torch.where(angle < -math.pi / 2, angle + math.pi, angle)
        return self._finish(angle.masked_fill(ignored, 0).abs(), weight)


@MODELS.register_module()
class PlanCollisionLoss(_PlanLoss):
    """Pushes the plan away from the predicted trajectories of vehicles.

    The losses of a step are how far the nearest vehicle's distance along x is below ``x_dis_thresh`` and
    along y below ``y_dis_thresh`` (possibly of two different vehicles), among the vehicles within
    ``dis_thresh``.

    Args:
        reduction: 'mean', 'sum' or 'none'.
        loss_weight: factor of the reduced loss.
        agent_thresh: agents of a lower best class score do not count.
        x_dis_thresh: metres to keep sideways.
        y_dis_thresh: metres to keep lengthwise.
        dis_thresh: metres; vehicles farther away at a step do not act on it.
        point_cloud_range: accepted for the configs' sake; agents are in metres already.
    """

    def __init__(
        self,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        agent_thresh: float = 0.5,
        x_dis_thresh: float = 1.5,
        y_dis_thresh: float = 3.0,
        dis_thresh: float = 3.0,
        point_cloud_range: Sequence[float] = PC_RANGE,
    ) -> None:
        super().__init__(reduction, loss_weight)
        self.agent_thresh = agent_thresh
        self.x_dis_thresh = x_dis_thresh
        self.y_dis_thresh = y_dis_thresh
        self.dis_thresh = dis_thresh

    def forward(
        self,
        ego_fut_preds: Tensor,
        agent_preds: Tensor,
        agent_fut_preds: Tensor,
        agent_score_preds: Tensor,
        agent_fut_cls_preds: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch of plans.

        Args:
            ego_fut_preds: (B, T, 2) offsets per step, metres.
            agent_preds: (B, A, 2) centres, metres.
            agent_fut_preds: (B, A, M, T, 2) offsets per step of each mode, metres; left untouched.
            agent_score_preds: (B, A, num_classes) scores after the sigmoid.
            agent_fut_cls_preds: (B, A, M) scores of the modes; only an agent's best mode counts.
            weight: (B, T, 2) weight of each step and axis.
        """
        plan = ego_fut_preds.cumsum(-2)
        score, label = agent_score_preds.max(-1)
        ignored = (score < self.agent_thresh) | (label >= _NUM_VEHICLE_CLASSES)
        mode = agent_fut_cls_preds.argmax(-1)[..., None, None, None]
        future = agent_fut_preds.take_along_dim(mode, 2).squeeze(2)
        agents = agent_preds[:, :, None] + future.cumsum(-2)
        with torch.no_grad():
            away = torch.linalg.norm(plan[:, None] - agents, dim=-1) > self.dis_thresh
        agents = agents.masked_fill((away | ignored[..., None])[..., None], _FAR)
        distance = (plan[:, None] - agents).abs().min(1).values  # (B, T, 2)
        loss = torch.stack(
            [_hinge(distance[..., 0], self.x_dis_thresh), _hinge(distance[..., 1], self.y_dis_thresh)], -1
        )
        return self._finish(loss, weight)
