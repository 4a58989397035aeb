"""Multi-scale deformable attention: each query looks at a few points of feature maps, where it wants to itself.

``deformable_sampling`` is the one operation under all of them. On CUDA it runs mmcv's kernel, elsewhere (or with an
mmcv that was built without CUDA) a vectorised torch expression. Numbers of heads, levels and points are attributes;
the width of a head is read from ``value_proj.weight``, so that heads can be removed by replacing parameters.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.ops import get_compiling_cuda_version
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, constant_init, xavier_init
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]


def deformable_sampling(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, counts: Sequence[int]
) -> Tensor:
    """Weighted sum of bilinear samples, for each query and head.

    Queries are rows that stand one map after the other: the first ``counts[0]`` rows sample ``value[0]``, and so on.
    So maps may have different numbers of queries without padding.

    Args:
        value: The maps, (M, N, H, C): N is the sum of h * w over the levels, row-major.
        shapes: (h, w) of each of the L levels.
        locations: Where to sample, (R, H, L, P, 2), (x, y) in [0, 1] from corner to corner of a level; outside is 0.
        weights: (R, H, L, P).
        counts: How many rows sample each map, M integers that sum to R.

    Returns:
        (R, H * C), at least in single precision: in half precision the many small sums lose too much.
    """
    dtype = torch.promote_types(locations.dtype, torch.float32)
    value, locations, weights = (x.to(dtype) for x in (value, locations, weights))
    # A kernel cannot be launched for no rows; the torch expression keeps them in the graph.
    sample = _sample_cuda if value.is_cuda and len(locations) and _has_cuda_kernel() else _sample_torch
    if len(set(counts)) == 1:  # the same number for each map: one call for all
        batched = (len(counts), counts[0])
        out = sample(value, shapes, locations.unflatten(0, batched), weights.unflatten(0, batched))
        return out.flatten(0, 1)
    parts = zip(value.split(1), locations.split(list(counts)), weights.split(list(counts)))
    return torch.cat([sample(v, shapes, at[None], w[None])[0] for v, at, w in parts if len(at)])


def _has_cuda_kernel() -> bool:
    return get_compiling_cuda_version() != 'not available'


def _sample_cuda(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """mmcv's kernel. Its last argument, how many maps it takes at once, has to divide their number: all of them."""
    sizes = torch.tensor(shapes, device=value.device)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
    return MultiScaleDeformableAttnFunction.apply(
        value.contiguous(), sizes, starts, locations.contiguous(), weights.contiguous(), len(value)
    )


def _sample_torch(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """value (B, N, H, C), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P) -> (B, Q, H * C)."""
    batch, _, heads, channels = value.shape
    num_query = locations.shape[1]
    grids = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5)  # B, H, L, Q, P, 2
    maps = value.split([h * w for h, w in shapes], dim=1)
    out = 0
    for level, ((h, w), flat) in enumerate(zip(shapes, maps)):
        image = flat.permute(0, 2, 3, 1).reshape(batch * heads, channels, h, w)
        sampled = F.grid_sample(image, grids[:, :, level].flatten(0, 1), align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # B * H, Q, P
        out = out + (sampled * weight[:, None]).sum(-1)
    return out.reshape(batch, heads * channels, num_query).transpose(1, 2)


class DeformableAttention(BaseModule):
    """What the deformable attentions of the encoder and of the decoders have in common.

    Args:
        embed_dims: Width of the queries and of the values.
        num_heads: Number of heads.
        num_levels: Number of feature maps of different scale that each head samples.
        num_points: Number of points per head and level.
        num_queue: Number of value sets (frames) for which points are predicted at once.
        in_dims: Width of what the points are predicted from; ``embed_dims`` by default.
        output_proj: Whether there is a projection of the output.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        num_queue: int = 1,
        in_dims: int | None = None,
        output_proj: bool = True,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} is not divisible by num_heads={num_heads}')
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.num_queue = num_queue
        in_dims = in_dims or embed_dims
        num_samples = num_queue * num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(in_dims, num_samples * 2)
        self.attention_weights = nn.Linear(in_dims, num_samples)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims) if output_proj else None

    def init_weights(self) -> None:
        """Heads look in evenly spread directions, point i at a distance of i + 1 cells; all points count the same."""
        constant_init(self.sampling_offsets, 0.0)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        bias = direction[:, None, None] * steps[:, None]
        bias = bias.expand(-1, self.num_queue * self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.flatten())
        constant_init(self.attention_weights, 0.0)
        xavier_init(self.value_proj, distribution='uniform')
        if self.output_proj is not None:
            xavier_init(self.output_proj, distribution='uniform')

    def project_value(self, value: Tensor) -> Tensor:
        """(..., N, D) -> (..., N, heads, width of a head)."""
        return self.value_proj(value).unflatten(-1, (self.num_heads, -1))

    def predict_points(self, query: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
        """Where to look, relative to a reference point, and how much each point counts.

        Args:
            query: (..., in_dims).
            shapes: (h, w) of each level.

        Returns:
            Offsets as a fraction of the level's size, (..., heads, queue, levels, points, 2), and weights that sum
            to 1 over levels and points, (..., heads, queue, levels, points).
        """
        grid = (self.num_heads, self.num_queue, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*grid, 2))
        size = offsets.new_tensor([[w, h] for h, w in shapes])
        weights = self.attention_weights(query).unflatten(-1, (*grid[:2], grid[2] * grid[3]))
        return offsets / size[:, None], weights.softmax(-1).unflatten(-1, grid[2:])


@MODELS.register_module()
class CustomMSDeformableAttention(DeformableAttention):
    """The cross attention of the detection and map decoders: object and map queries look at the bird's-eye view.

    Args:
        dropout: Dropout rate of the output.
        **kwargs: Of :class:`DeformableAttention`.
    """

    def __init__(self, embed_dims: int, dropout: float = 0.1, **kwargs):
        super().__init__(embed_dims, **kwargs)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        *,
        reference_points: Tensor,
        shapes: Shapes,
    ) -> Tensor:
        """Attend; ``key`` and ``key_pos`` are ignored, for a deformable attention has no keys.

        Args:
            query: (B, Q, D).
            value: (B, N, D), N is the sum of h * w.
            query_pos: (B, Q, D).
            reference_points: (B, Q, 2), (x, y) in [0, 1].
            shapes: (h, w) of each level.

        Returns:
            (B, Q, D).
        """
        batch, num_query = query.shape[:2]
        offsets, weights = self.predict_points(query if query_pos is None else query + query_pos, shapes)
        locations = reference_points[:, :, None, None, None] + offsets[:, :, :, 0]
        out = deformable_sampling(
            self.project_value(value),
            shapes,
            locations.flatten(0, 1),
            weights[:, :, :, 0].flatten(0, 1),
            [num_query] * batch,
        )
        return query + self.dropout(self.output_proj(out.unflatten(0, (batch, num_query))))


@MODELS.register_module()
class MSDeformableAttention3D(DeformableAttention):
    """The sampling inside the spatial cross attention: pillars of the bird's-eye view look into the images.

    A pillar has several reference points, one per height; point p of a head belongs to height p mod (number of
    heights).

    Args:
        embed_dims: Width of the queries and of the image features.
        num_points: Points per head and level, a multiple of the number of heights.
        **kwargs: Of :class:`DeformableAttention`.
    """

    def __init__(self, embed_dims: int, num_points: int = 8, **kwargs):
        super().__init__(embed_dims, num_points=num_points, output_proj=False, **kwargs)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        shapes: Shapes,
        reference_points: Tensor,
        rows: Tensor,
        counts: Sequence[int],
    ) -> Tensor:
        """Attend from those pillars that a camera sees; what a pillar looks for does not depend on the camera.

        Args:
            query: All pillars, (B * Q, D).
            value: Image features, (B * cameras, N, D); N is the sum of h * w over the levels.
            shapes: (h, w) of each level.
            reference_points: The pillars' points in the images, (hits, heights, 2), (x, y) in [0, 1]; hits of the first
                camera first.
            rows: Which of the pillars each hit belongs to, (hits,).
            counts: Hits per camera, B * cameras integers.

        Returns:
            (hits, heads * width of a head).
        """
        offsets, weights = (x[:, :, 0] for x in self.predict_points(query, shapes))  # B * Q, H, L, P, (2)
        heights = reference_points.shape[1]
        locations = offsets[rows].unflatten(3, (-1, heights)) + reference_points[:, None, None, None]
        return deformable_sampling(self.project_value(value), shapes, locations.flatten(3, 4), weights[rows], counts)
