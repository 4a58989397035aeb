"""The bird's-eye-view encoder: six camera images and the previous frame's view become one feature map around the car.

Frames: the view is a grid of ``bev_h x bev_w`` cells over ``pc_range``, row-major, row = y (forward), column = x
(right) of the lidar frame, in metres. Images are pixels (x right, y down); ``lidar2img`` maps the former to the latter.
"""

from dataclasses import dataclass

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, xavier_init
from torch import Tensor, nn

from .deformable_attention import DeformableAttention, Shapes, deformable_sampling
from .transformer_layer import LayerStack, VADTransformerLayer


@dataclass
class Visibility:
    """Which pillars which camera sees, and where. R hits are sorted by sample, then camera, then pillar.

    Attributes:
        points: Image coordinates of the pillar's points, (R, heights, 2), (x, y) in [0, 1] of the padded image.
        rows: The pillar (sample * Q + pillar) of each hit, (R,).
        counts: Hits of each camera, B * cameras integers.
        cameras: How many cameras see a pillar, at least 1, (B * Q, 1).
    """

    points: Tensor
    rows: Tensor
    counts: list[int]
    cameras: Tensor


def pillar_points(bev_h: int, bev_w: int, heights: int, pc_range: list[float], like: Tensor) -> Tensor:
    """Metric points of each pillar, evenly spread in height.

    Returns:
        (bev_h * bev_w, heights, 3), (x, y, z) in metres of the lidar frame.
    """
    low, high = pc_range[:3], pc_range[3:]
    depth = high[2] - low[2]
    zs = torch.linspace(0.5, depth - 0.5, heights, dtype=like.dtype, device=like.device) / depth
    cells = cell_centers(bev_h, bev_w, like)
    unit = torch.cat([cells[:, None].expand(-1, heights, 2), zs[None, :, None].expand(len(cells), -1, 1)], -1)
    return unit * like.new_tensor([end - start for start, end in zip(low, high)]) + like.new_tensor(low)


def cell_centers(bev_h: int, bev_w: int, like: Tensor) -> Tensor:
    """Centres of the grid's cells, (bev_h * bev_w, 2), (x, y) in [0, 1]."""
    y = torch.linspace(0.5, bev_h - 0.5, bev_h, dtype=like.dtype, device=like.device) / bev_h
    x = torch.linspace(0.5, bev_w - 0.5, bev_w, dtype=like.dtype, device=like.device) / bev_w
    y, x = torch.meshgrid(y, x, indexing='ij')
    return torch.stack([x.flatten(), y.flatten()], -1)


def project_points(points: Tensor, metas: list[dict]) -> tuple[Tensor, Tensor]:
    """Project points into all cameras of all samples.

    Args:
        points: (Q, heights, 3), metres.
        metas: One per sample: ``lidar2img`` (cameras matrices 4 x 4), ``img_shape`` ((H, W, 3) per camera, padded).

    Returns:
        Image coordinates in [0, 1], (B, cameras, Q, heights, 2), and whether they lie in the image and in front of the
        camera, (B, cameras, Q, heights).
    """
    lidar2img = points.new_tensor(np.asarray([meta['lidar2img'] for meta in metas]))
    size = points.new_tensor(np.asarray([[(s[1], s[0]) for s in meta['img_shape']] for meta in metas]))
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    with torch.autocast(points.device.type, enabled=False):  # pixels need single precision
        seen = torch.einsum('bcij,qzj->bcqzi', lidar2img[:, :, :3], homogeneous)
    eps = 1e-5
    depth = seen[..., 2:]
    xy = seen[..., :2] / depth.clamp(min=eps) / size[:, :, None, None]
    inside = (depth > eps) & (xy > 0) & (xy < 1)
    return xy, inside.all(-1)


def find_visibility(xy: Tensor, inside: Tensor) -> Visibility:
    """Gather the hits of :func:`project_points`.

    Each sample has its own; the original took those of sample 0 for the whole batch.
    """
    batch, cameras, num_query, heights, _ = xy.shape
    hit = inside.any(-1)
    index = hit.flatten().nonzero().squeeze(-1)
    sample = index // (cameras * num_query)
    return Visibility(
        points=xy.reshape(-1, heights, 2)[index],
        rows=sample * num_query + index % num_query,
        counts=hit.sum(-1).flatten().tolist(),
        cameras=hit.sum(1).clamp(min=1).view(-1, 1),
    )


@MODELS.register_module()
class TemporalSelfAttention(DeformableAttention):
    """Cells look at the previous view (turned to the present heading) and at the present one; the two are averaged.

    Args:
        embed_dims: Width of the view.
        num_bev_queue: Number of views, previous and present.
        dropout: Dropout rate of the output.
        **kwargs: Of :class:`DeformableAttention`.
    """

    def __init__(self, embed_dims: int, num_bev_queue: int = 2, dropout: float = 0.1, **kwargs):
        if num_bev_queue != 2:
            raise ValueError(f'num_bev_queue={num_bev_queue}: only 2 (previous and present) is supported')
        super().__init__(embed_dims, num_queue=2, in_dims=2 * embed_dims, **kwargs)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query: Tensor, views: tuple[Tensor, Tensor], pos: Tensor, reference_points: Tensor, shapes: Shapes
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, D).
            views: Previous and present view, (B, Q, D) each; with no previous frame the same tensor twice.
            pos: Position encoding of the cells, (B, Q, D).
            reference_points: (B, Q, 2), (x, y) in [0, 1].
            shapes: [(bev_h, bev_w)].

        Returns:
            (B, Q, D).
        """
        batch, num_query = query.shape[:2]
        offsets, weights = self.predict_points(torch.cat([views[0], query + pos], -1), shapes)
        locations = (reference_points[:, :, None, None, None, None] + offsets).movedim(3, 1)  # B, 2, Q, H, L, P, 2
        previous, present = views
        values = self.project_value(present)
        values = torch.stack([values if previous is present else self.project_value(previous), values], 1)
        out = deformable_sampling(
            values.flatten(0, 1),
            shapes,
            locations.flatten(0, 2),
            weights.movedim(3, 1).flatten(0, 2),
            [num_query] * (2 * batch),
        )
        out = out.unflatten(0, (batch, 2, num_query)).mean(1)
        return query + self.dropout(self.output_proj(out))


@MODELS.register_module()
class SpatialCrossAttention(BaseModule):
    """Pillars look into the cameras that see them; what several cameras say is averaged.

    Args:
        embed_dims: Width of the view.
        deformable_attention: Config of :class:`MSDeformableAttention3D`.
        dropout: Dropout rate of the output.
        pc_range: Accepted for the configs' sake; the geometry is computed once, in the encoder.
    """

    def __init__(
        self,
        embed_dims: int,
        deformable_attention: dict,
        dropout: float = 0.1,
        pc_range: list[float] | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.embed_dims = embed_dims
        self.num_heights = 1  # of a pillar; the encoder around it knows better
        self.dropout = nn.Dropout(dropout)
        self.deformable_attention = MODELS.build(deformable_attention)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        xavier_init(self.output_proj, distribution='uniform')

    def forward(self, query: Tensor, features: Tensor, shapes: Shapes, visibility: Visibility) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, D).
            features: Image features, (B * cameras, N, C).
            shapes: (h, w) of each level of the features.
            visibility: Which pillars which camera sees.

        Returns:
            (B, Q, D).
        """
        pillars = query.flatten(0, 1)
        hits = self.deformable_attention(
            pillars, features, shapes, visibility.points, visibility.rows, visibility.counts
        )
        total = hits.new_zeros(len(pillars), hits.shape[1]).index_add(0, visibility.rows, hits)
        out = self.output_proj(total / visibility.cameras)
        return query + self.dropout(out.view_as(query))


@MODELS.register_module()
class BEVFormerLayer(VADTransformerLayer):
    """A layer of the encoder; its self attention is over time, its cross attention into the images."""

    def forward(
        self,
        query: Tensor,
        views: tuple[Tensor, Tensor],
        pos: Tensor,
        reference_points: Tensor,
        bev_shapes: Shapes,
        features: Tensor,
        shapes: Shapes,
        visibility: Visibility,
    ) -> Tensor:
        """Arguments as those of the two attentions; (B, Q, D) -> (B, Q, D)."""
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        for step in self.operation_order:
            if step == 'self_attn':
                query = next(attentions)(query, views, pos, reference_points, bev_shapes)
            elif step == 'cross_attn':
                query = next(attentions)(query, features, shapes, visibility)
            elif step == 'ffn':
                query = next(ffns)(query)
            else:
                query = next(norms)(query)
        return query


@MODELS.register_module()
class BEVFormerEncoder(LayerStack):
    """The stack of encoder layers, and the geometry that all of them share.

    Args:
        pc_range: [x_min, y_min, z_min, x_max, y_max, z_max] in metres.
        num_points_in_pillar: Number of heights per cell.
        **kwargs: Of :class:`LayerStack`.
    """

    def __init__(self, pc_range: list[float], num_points_in_pillar: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.pc_range = pc_range
        self.num_points_in_pillar = num_points_in_pillar
        for module in self.modules():
            if isinstance(module, SpatialCrossAttention):
                module.num_heights = num_points_in_pillar

    def forward(
        self,
        query: Tensor,
        features: Tensor,
        shapes: Shapes,
        metas: list[dict],
        bev_hw: tuple[int, int],
        pos: Tensor,
        shift: Tensor,
        prev_bev: Tensor | None = None,
    ) -> Tensor:
        """Encode.

        Args:
            query: Cells with the car's motion added, (B, Q, D).
            features: (B * cameras, N, C).
            shapes: (h, w) of each level of the features.
            metas: One per sample, see :func:`project_points`.
            bev_hw: Rows and columns of the grid.
            pos: Position encoding of the cells, (B, Q, D).
            shift: By how much the car moved since the previous frame, (B, 2), as a fraction of the grid.
            prev_bev: The previous view, turned to the present heading, (B, Q, D).

        Returns:
            (B, Q, D).
        """
        points = pillar_points(*bev_hw, self.num_points_in_pillar, self.pc_range, query)
        visibility = find_visibility(*project_points(points, metas))
        # As published, the shift moves the reference points of both views, also those of the present one.
        reference_points = cell_centers(*bev_hw, query) + shift[:, None]
        present = query
        for layer in self.layers:
            # With a previous view all layers look at the view before the first one; without, at their own input.
            views = (query, query) if prev_bev is None else (prev_bev, present)
            query = layer(query, views, pos, reference_points, [bev_hw], features, shapes, visibility)
        return query
