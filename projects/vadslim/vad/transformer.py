"""The perception transformer: images to bird's-eye view, and from there objects and map vectors."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, xavier_init
from torch import Tensor, nn

from .decoders import Decoded, at_least_single
from .deformable_attention import DeformableAttention, Shapes


def rotate_view(view: Tensor, angles: list[float], center: tuple[float, float]) -> Tensor:
    """Turn bird's-eye views; nearest cell, zero where nothing is known.

    The same as torchvision's ``rotate(view, angle, center=center)`` for each sample, which cannot be had here.

    Args:
        view: (B, C, H, W).
        angles: Degrees, counter-clockwise as seen in an image (x right, y down), one per sample.
        center: (x, y) in cells from the upper left corner.

    Returns:
        (B, C, H, W).
    """
    height, width = view.shape[-2:]
    dx, dy = center[0] - width * 0.5, center[1] - height * 0.5  # from the middle of the view
    matrices = []
    for angle in angles:
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        matrices.append([[cos, -sin, dx - cos * dx + sin * dy], [sin, cos, dy - sin * dx - cos * dy]])
    size = view.new_tensor([0.5 * width, 0.5 * height])
    theta = view.new_tensor(matrices).transpose(1, 2) / size  # B, 3, 2
    x = torch.linspace(0.5 - width * 0.5, width * 0.5 - 0.5, width, dtype=view.dtype, device=view.device)
    y = torch.linspace(0.5 - height * 0.5, height * 0.5 - 0.5, height, dtype=view.dtype, device=view.device)
    y, x = torch.meshgrid(y, x, indexing='ij')
    cells = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)
    with torch.autocast(view.device.type, enabled=False):
        grid = cells.expand(len(view), -1, -1).bmm(theta).view(-1, height, width, 2)
    return F.grid_sample(view, grid, mode='nearest', padding_mode='zeros', align_corners=False)


def ego_shift(metas: list[dict], bev_hw: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """By how much the car moved since the previous frame, in its own frame.

    Args:
        metas: One per sample: ``can_bus`` [0], [1] the movement in metres (global axes), [-2] the absolute heading
            in radians.
        bev_hw: Rows and columns of the view.
        cell: Height and width of a cell in metres.

    Returns:
        (B, 2), (x, y) as a fraction of the view.
    """
    can_bus = np.array([meta['can_bus'] for meta in metas], dtype=np.float64)
    dx, dy = can_bus[:, 0], can_bus[:, 1]
    angle = can_bus[:, -2] - np.arctan2(dy, dx)
    length = np.hypot(dx, dy)
    y = length * np.cos(angle) / cell[0] / bev_hw[0]
    x = length * np.sin(angle) / cell[1] / bev_hw[1]
    return np.stack([x, y], -1)


@MODELS.register_module()
class VADPerceptionTransformer(BaseModule):
    """Encoder and the two perception decoders.

    Args:
        embed_dims: Width that all streams are built with; the forward pass reads each stream's own.
        encoder: Config of :class:`~vadslim.vad.bev_encoder.BEVFormerEncoder`.
        decoder: Config of the object decoder.
        map_decoder: Config of the map decoder.
        num_feature_levels: Rows of ``level_embeds``; at least the number of image feature levels.
        num_cams: Number of cameras.
        rotate_prev_bev: Whether the previous view is turned to the present heading.
        rotate_center: (x, y) in cells about which it is turned. The published default [100, 100] is the middle of
            VAD-base's 200 x 200 cells, and the far corner of VAD-tiny's 100 x 100; the published weights were
            trained so.
        use_shift: Whether reference points move with the car.
        use_can_bus: Whether the car's motion is added to the cells.
        can_bus_norm: Whether it is normalised before.
        use_cams_embeds: Whether features know their camera.
        map_num_vec, map_num_pts_per_vec: Accepted for the configs' sake; the head's settings count.
    """

    def __init__(
        self,
        embed_dims: int,
        encoder: dict,
        decoder: dict,
        map_decoder: dict,
        num_feature_levels: int = 4,
        num_cams: int = 6,
        rotate_prev_bev: bool = True,
        rotate_center: tuple[float, float] = (100, 100),
        use_shift: bool = True,
        use_can_bus: bool = True,
        can_bus_norm: bool = True,
        use_cams_embeds: bool = True,
        map_num_vec: int | None = None,
        map_num_pts_per_vec: int | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.rotate_prev_bev = rotate_prev_bev
        self.rotate_center = rotate_center
        self.use_shift = use_shift
        self.use_can_bus = use_can_bus
        self.use_cams_embeds = use_cams_embeds
        self.encoder = MODELS.build(encoder)
        self.decoder = MODELS.build(decoder)
        self.map_decoder = MODELS.build(map_decoder)
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dims))
        self.cams_embeds = nn.Parameter(torch.empty(num_cams, embed_dims))
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)
        self.reference_points = nn.Linear(embed_dims, 3)
        self.map_reference_points = nn.Linear(embed_dims, 2)
        self.can_bus_mlp = nn.Sequential(
            nn.Linear(18, embed_dims // 2),
            nn.ReLU(inplace=True),
            nn.Linear(embed_dims // 2, embed_dims),
            nn.ReLU(inplace=True),
        )
        if can_bus_norm:
            self.can_bus_mlp.add_module('norm', nn.LayerNorm(embed_dims))

    def init_weights(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.init_weights()
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)
        for module in (self.reference_points, self.map_reference_points):
            xavier_init(module, distribution='uniform')

    def encode(
        self,
        features: list[Tensor],
        bev_queries: Tensor,
        bev_pos: Tensor,
        bev_hw: tuple[int, int],
        cell: tuple[float, float],
        metas: list[dict],
        prev_bev: Tensor | None = None,
    ) -> Tensor:
        """Images to bird's-eye view.

        Args:
            features: One per level, (B, cameras, C, h, w).
            bev_queries: (bev_h * bev_w, D).
            bev_pos: (B, bev_h * bev_w, D).
            bev_hw: Rows and columns of the view.
            cell: Height and width of a cell in metres.
            metas: One per sample: ``can_bus`` (relative to the previous frame), ``lidar2img``, ``img_shape``.
            prev_bev: View of the previous frame, (B, bev_h * bev_w, D).

        Returns:
            (B, bev_h * bev_w, D).
        """
        batch = len(metas)
        shift = bev_queries.new_tensor(ego_shift(metas, bev_hw, cell)) * float(self.use_shift)
        if prev_bev is not None and self.rotate_prev_bev:
            view = prev_bev.transpose(1, 2).unflatten(2, bev_hw)
            angles = [float(meta['can_bus'][-1]) for meta in metas]
            prev_bev = rotate_view(view, angles, self.rotate_center).flatten(2).transpose(1, 2)
        queries = bev_queries.expand(batch, -1, -1)
        if self.use_can_bus:
            can_bus = queries.new_tensor(np.array([meta['can_bus'] for meta in metas]))
            queries = queries + self.can_bus_mlp(can_bus)[:, None]
        flat, shapes = self.flatten_features(features)
        return self.encoder(queries, flat, shapes, metas, bev_hw, bev_pos, shift, prev_bev)

    def flatten_features(self, features: list[Tensor]) -> tuple[Tensor, Shapes]:
        """Tokens that know their camera and level.

        Args:
            features: One per level, (B, cameras, C, h, w).

        Returns:
            (B * cameras, sum of h * w, C) and the (h, w) of each level.
        """
        flat, shapes = [], []
        for level, feature in enumerate(features):
            embed = self.level_embeds[level]
            if self.use_cams_embeds:
                embed = embed + self.cams_embeds[:, None]  # cameras, 1, C
            flat.append(feature.flatten(3).transpose(2, 3) + embed)
            shapes.append(tuple(feature.shape[-2:]))
        return torch.cat(flat, 2).flatten(0, 1), shapes

    def decode(
        self,
        bev: Tensor,
        object_embed: Tensor,
        map_embed: Tensor,
        reg_branches: nn.ModuleList,
        map_reg_branches: nn.ModuleList,
        bev_hw: tuple[int, int],
    ) -> tuple[Decoded, Decoded]:
        """Bird's-eye view to objects and map points.

        Args:
            bev: (B, bev_h * bev_w, C).
            object_embed: Position and content of the object queries side by side, (queries, 2 D).
            map_embed: The same of the map point queries, (vectors * points, 2 D).
            reg_branches: Regression of the objects, one per layer.
            map_reg_branches: Regression of the map points, one per layer.
            bev_hw: Rows and columns of the view.
        """
        out = []
        for embed, to_reference, decoder, branches in (
            (object_embed, self.reference_points, self.decoder, reg_branches),
            (map_embed, self.map_reference_points, self.map_decoder, map_reg_branches),
        ):
            pos, query = (x.expand(len(bev), -1, -1) for x in embed.chunk(2, dim=1))
            reference_points = at_least_single(to_reference(pos)).sigmoid()
            out.append(decoder(query, pos, bev, reference_points, branches, bev_hw))
        return out[0], out[1]
