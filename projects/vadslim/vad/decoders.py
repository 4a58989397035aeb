"""Decoders: detection, map, motion and planning queries, and the encoder of map vectors."""

from dataclasses import dataclass

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from .transformer_layer import LayerStack


def at_least_single(x: Tensor) -> Tensor:
    """Positions and scores do not live in half precision, also when autocast computed them there."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)), both clamped to eps."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


@dataclass
class Decoded:
    """What a decoder says after each of L layers.

    Attributes:
        states: Queries, (L, B, Q, D).
        regression: Raw output of the regression branch, (L, B, Q, code).
        centers: Refined position in [0, 1] with gradient, (L, B, Q, 2 or 3).
    """

    states: Tensor
    regression: Tensor
    centers: Tensor


class RefiningDecoder(LayerStack):
    """Each layer moves the reference points by what its regression branch says of the queries.

    A layer's regression is used twice, for the output (with gradient) and as the next layer's reference (without);
    it is computed once.

    Attributes:
        center_code: Which entries of the regression are the position.
    """

    center_code: tuple[int, ...] = ()

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        value: Tensor,
        reference_points: Tensor,
        reg_branches: nn.ModuleList,
        bev_hw: tuple[int, int],
    ) -> Decoded:
        """Decode.

        Args:
            query: (B, Q, D).
            query_pos: (B, Q, D).
            value: The bird's-eye view, (B, bev_h * bev_w, C).
            reference_points: (B, Q, 2 or 3), in [0, 1].
            reg_branches: One per layer.
            bev_hw: Rows and columns of the view.
        """
        states, regressions, centers = [], [], []
        for layer, branch in zip(self.layers, reg_branches):
            query = layer(
                query,
                value=value,
                query_pos=query_pos,
                reference_points=reference_points[..., :2],
                shapes=[bev_hw],
            )
            regression = at_least_single(branch(query))
            center = regression[..., self.center_code] + inverse_sigmoid(reference_points)
            center = center.sigmoid()
            reference_points = center.detach()
            states.append(query)
            regressions.append(regression)
            centers.append(center)
        return Decoded(torch.stack(states), torch.stack(regressions), torch.stack(centers))


@MODELS.register_module()
class DetectionTransformerDecoder(RefiningDecoder):
    """Objects: regression is (cx, cy, w, l, cz, h, sin, cos, vx, vy)."""

    center_code = (0, 1, 4)


@MODELS.register_module()
class MapDetectionTransformerDecoder(RefiningDecoder):
    """Points of map vectors: regression is (x, y)."""

    center_code = (0, 1)


@MODELS.register_module()
class CustomTransformerDecoder(LayerStack):
    """Plain cross attention: agents with agents, agents with the map, the car with both."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        **cross: Tensor | None,
    ) -> Tensor:
        """query (B, Q, D), key (also the values) (B, K, D) -> (B, Q, D)."""
        for layer in self.layers:
            query = layer(query, key, key, query_pos, key_pos, **cross)
        return query


class VectorLayer(BaseModule):
    """Linear, LayerNorm, ReLU on each point; then each point is joined by the maximum over its vector's points."""

    def __init__(self, in_channels: int, hidden_unit: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(in_channels, hidden_unit), nn.LayerNorm(hidden_unit), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, V, points, C) -> (B, V, points, 2 * hidden_unit)."""
        x = self.mlp(x)
        return torch.cat([x, x.amax(-2, keepdim=True).expand_as(x)], -1)


class LaneNet(BaseModule):
    """Polylines to vectors, as in VectorNet.

    Args:
        in_channels: Width of a point.
        hidden_unit: Half the width of a vector.
        num_subgraph_layers: Number of layers.
    """

    def __init__(self, in_channels: int, hidden_unit: int, num_subgraph_layers: int):
        super().__init__()
        self.layer_seq = nn.Sequential()
        for i in range(num_subgraph_layers):
            self.layer_seq.add_module(f'lmlp_{i}', VectorLayer(in_channels, hidden_unit))
            in_channels = 2 * hidden_unit

    def forward(self, points: Tensor) -> Tensor:
        """(B, V, points, C) -> (B, V, 2 * hidden_unit)."""
        return self.layer_seq(points).amax(-2)
