"""InkNet: from an image of strokes to maps that tell where their lines run."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ...analysis import Example, declares_example
from ...cli import UserError
from ...registry import MODELS
from .layers import ConvNeXtBlock, CrossSkip, MapHead, PointHead, RepViTBlock, add_coordinates, conv_norm
from .losses import ink_losses
from .strokes import SIZE, TARGETS

STRUCTURAL = ('skeleton', 'tangent')  # heads of the network that is trained on masked images
MASKS = {'block': 8, 'random': 1}  # strategy -> side of the squares that are hidden, in pixels

# what a dense network has and a structural checkpoint lacks: for StructureHook's allow_missing
NEW_IN_DENSE = ('decoder.skips.*', *(f'heads.{name}.*' for name in TARGETS if name not in STRUCTURAL))

_RARE = -4.59  # logit of 0.01: about the share of the pixels that are skeleton
_PEAK = -2.19  # logit of 0.1, with which CenterNet's heat maps begin


class Encoder(nn.Module):
    """Convolutions down to 8 x 8 places, then a Transformer over these.

    Args:
        embed_dim: of the Transformer.
        num_layers: of the Transformer.
        num_heads: of its attention.
        dropout: probability.
    """

    def __init__(self, embed_dim: int = 128, num_layers: int = 4, num_heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            [nn.Sequential(conv_norm(3, 32, 3, 2), nn.GELU()), nn.Sequential(conv_norm(32, 64, 3, 2), nn.GELU())]
        )
        self.fine = nn.Sequential(*(RepViTBlock(64, 64) for _ in range(2)))
        self.coarse = nn.Sequential(RepViTBlock(64, 128, 2), *(RepViTBlock(128, 128) for _ in range(3)))
        self.embed = nn.Linear(128, embed_dim)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty((SIZE // 8) ** 2, embed_dim), std=0.02))
        self.layers = nn.ModuleList(  # not nn.TransformerEncoder, whose layers begin as copies of one
            nn.TransformerEncoderLayer(
                embed_dim, num_heads, 4 * embed_dim, dropout, 'gelu', batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, 1, 64, 64) -> map (B, embed_dim, 8, 8), and maps for skips: (B, 64, 16, 16), (B, 32, 32, 32)."""
        large = self.stem[0](add_coordinates(images))
        middle = self.fine(self.stem[1](large))
        x = self.coarse(middle)
        shape = x.shape
        x = self.embed(x.flatten(2).transpose(1, 2)) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).transpose(1, 2).reshape(shape[0], -1, *shape[2:]), [middle, large]


class Decoder(nn.Module):
    """A U-Net's way up, three times to twice the side; all sides share one 7 x 7 block.

    Args:
        embed_dim: channels of the encoder's map.
        channels: of all maps of the decoder.
        with_skips: look at the encoder's larger maps.
    """

    def __init__(self, embed_dim: int, channels: int, with_skips: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(embed_dim, channels, 1)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 2, 2) for _ in range(3))
        self.skips = nn.ModuleList([CrossSkip(channels, 64), CrossSkip(channels, 32)] if with_skips else [])
        self.block = ConvNeXtBlock(channels)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, embed_dim, 8, 8) and the encoder's larger maps -> (B, channels, 64, 64)."""
        x = self.first(x)
        for level, enlarge in enumerate(self.enlarge):
            x = enlarge(x)
            if level < len(self.skips):
                x = self.skips[level](x, skips[level])
            x = self.block(x)
        return x


@MODELS.register_module()
class InkNet(BaseModel):
    """Maps of skeletons, key points, tangents, widths and offsets from an image of strokes.

    It is trained in two stages. Structural: only ``skeleton`` and ``tangent``, no skips, and most of each image
    hidden, so that the Transformer has to learn how strokes go on. Dense: all heads, skips, whole images; the
    tensors that a structural network lacks are :data:`NEW_IN_DENSE`.

    Args:
        embed_dim: width of the Transformer.
        num_layers: of the Transformer.
        decoder_dim: channels of the decoder.
        full_heads: dense rather than structural.
        mask_ratio: share of each training image that is hidden (set to paper); rounded down to whole squares.
        mask_strategy: ``block`` hides squares of 8 x 8 pixels, ``random`` single pixels.
        loss_weights: factors of the heads' losses, by name; 1 where not given.
        freeze_encoder: train the decoder and the heads alone.
        data_preprocessor, init_cfg: as for MMEngine's models.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(
        self,
        embed_dim: int = 128,
        num_layers: int = 4,
        decoder_dim: int = 16,
        full_heads: bool = True,
        mask_ratio: float = 0.0,
        mask_strategy: str = 'block',
        loss_weights: Mapping[str, float] | None = None,
        freeze_encoder: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if embed_dim < 4 or embed_dim % 4 or decoder_dim < 4 or decoder_dim % 4:
            raise UserError(f'InkNet: embed_dim {embed_dim}, decoder_dim {decoder_dim}: multiples of 4, for 4 heads')
        if not 0 <= mask_ratio < 1:
            raise UserError(f'InkNet: mask_ratio {mask_ratio}: at least 0 and below 1')
        if mask_strategy not in MASKS:
            raise UserError(f'InkNet: mask_strategy {mask_strategy!r}: choose from {", ".join(MASKS)}')
        unknown = sorted(set(loss_weights or ()) - set(TARGETS))
        if unknown:
            raise UserError(f'InkNet: loss_weights: no head {unknown[0]!r}; there are {", ".join(TARGETS)}')
        self.mask_ratio, self.mask_side = mask_ratio, MASKS[mask_strategy]
        self.loss_weights = {**dict.fromkeys(TARGETS, 1.0), **(loss_weights or {})}
        self.encoder = Encoder(embed_dim, num_layers)
        self.decoder = Decoder(embed_dim, decoder_dim, with_skips=full_heads)
        self.heads = nn.ModuleDict()
        for name, channels in TARGETS.items():
            if full_heads or name in STRUCTURAL:
                self.heads[name] = (PointHead if name == 'keypoints' else MapHead)(decoder_dim, channels)
        nn.init.constant_(self.heads['skeleton'][-1].bias, _RARE)
        if full_heads:
            nn.init.constant_(self.heads['keypoints'].last.bias, _PEAK)
        self.freeze_encoder = freeze_encoder
        self.encoder.requires_grad_(not freeze_encoder)

    def train(self, mode: bool = True) -> 'InkNet':
        """A frozen encoder keeps the statistics of its norms, and drops nothing."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 1, 64, 64) -> a map (B, C, 64, 64) per head; ``skeleton`` and ``keypoints`` before the sigmoid."""
        x = self.decoder(*self.encoder(images))
        maps = {name: head(x) for name, head in self.heads.items()}
        finish = {'tangent': torch.tanh, 'width': nn.functional.softplus, 'offset': lambda x: 0.5 * torch.tanh(x)}
        return {name: finish[name](value) if name in finish else value for name, value in maps.items()}

    def forward(
        self, inputs: Tensor, targets: dict[str, Tensor] | None = None, mode: str = 'tensor', **rest: Any
    ) -> Any:
        """Take a batch of :class:`Strokes`.

        Args:
            inputs: images (B, 1, 64, 64).
            targets: (B, C, 64, 64) by name; not needed with ``tensor``.
            mode: what to return.
            rest: what else a sample has, (B, ...).

        Returns:
            ``tensor``: a map per head. ``loss``: a weighted loss per head. ``predict``: for each image ``maps``
            (C, 64, 64) per head, ``image``, its ``targets``, and the rest.
        """
        if mode == 'loss':
            if self.training and self.mask_ratio:
                inputs = hide(inputs, self.mask_ratio, self.mask_side)
            assert targets is not None
            return ink_losses(self.maps(inputs), targets, self.loss_weights)
        maps = self.maps(inputs)
        maps |= {name: maps[name].sigmoid() for name in ('skeleton', 'keypoints') if name in maps}
        if mode == 'tensor':
            return maps
        if mode == 'predict':
            batch = {'maps': maps, 'image': inputs, 'targets': targets or {}, **rest}
            return [_pick(batch, number) for number in range(len(inputs))]
        raise ValueError(f'mode {mode!r}: choose from tensor, loss, predict')


def _pick(batch: Any, number: int) -> Any:
    return {key: _pick(value, number) for key, value in batch.items()} if isinstance(batch, dict) else batch[number]


def hide(images: Tensor, ratio: float, side: int) -> Tensor:
    """Set int(ratio * squares) squares of each image to 0, drawn from torch's generator.

    Args:
        images: (B, C, H, W).
        ratio: share of the squares.
        side: of a square, in pixels; a divisor of H and W.
    """
    batch, _, height, width = images.shape
    rows, columns = height // side, width // side
    order = torch.rand(batch, rows * columns, device=images.device).argsort(1)
    kept = torch.ones_like(order, dtype=images.dtype)
    kept.scatter_(1, order[:, : int(ratio * rows * columns)], 0)
    kept = kept.reshape(batch, 1, rows, columns)
    return images * kept.repeat_interleave(side, 2).repeat_interleave(side, 3)


@declares_example(InkNet)
def ink_example(model: InkNet, cfg: Any, small: bool) -> Example:
    """One image of noise; the positions in the Transformer fix its size."""
    noise = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def run(network: Any) -> Any:
        weight = next(network.parameters())
        return network(noise.to(weight.device, weight.dtype))

    return Example(run, f'1 x {SIZE} x {SIZE}, batch 1', fixed_work=True)
