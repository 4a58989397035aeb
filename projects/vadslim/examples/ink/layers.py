"""The building blocks of :class:`InkNet`."""

import torch
from torch import Tensor, nn


def add_coordinates(x: Tensor) -> Tensor:
    """Append x and y, -1 to 1 from the first to the last pixel: (B, C, H, W) -> (B, C + 2, H, W).

    Source: CoordConv, Liu et al. 2018.
    """
    height, width = x.shape[2:]
    ys = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)
    xs = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])
    return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)


def conv_norm(channels: int, out: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the side (over the stride), and batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out)
    )


class RepViTBlock(nn.Module):
    """Depth-wise convolutions mix places, then 1 x 1 convolutions channels.

    Source: RepViT, Wang et al. 2023, with the branches as they are trained, without squeeze-and-excitation.

    Args:
        channels: of the input.
        out: of the output; other than ``channels`` only with stride 2.
        stride: 2 halves the side.
    """

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.wide = conv_norm(channels, channels, 3, stride, channels)
        self.narrow = conv_norm(channels, channels, 1, 1, channels) if stride == 1 else None
        self.change = conv_norm(channels, out) if stride != 1 else nn.Identity()
        self.ffn = nn.Sequential(conv_norm(out, 2 * out), nn.GELU(), conv_norm(2 * out, out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        mixed = self.wide(x) if self.narrow is None else x + self.wide(x) + self.narrow(x)
        mixed = self.change(mixed)
        return mixed + self.ffn(mixed)


class ConvNeXtBlock(nn.Module):
    """A depth-wise 7 x 7 convolution, layer norm and an FFN of 1 x 1 convolutions, around which the input goes.

    Source: ConvNeXt, Liu et al. 2022, with an FFN twice as wide as its input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), nn.Conv2d(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        spread = self.norm(self.spread(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.ffn(spread)


class CrossSkip(nn.Module):
    """Let the decoder look up the encoder's map of the same side: cross-attention within windows of 8 x 8.

    Each place asks the 64 places of its window; attention over a whole map of 32 x 32 would be a million pairs per
    head. The encoder's map is added as well, as a U-Net's skip, so that place and detail need not be learned.

    Args:
        channels: of the decoder.
        skip_channels: of the encoder's map.
        num_heads: of the attention.
    """

    WINDOW = 8

    def __init__(self, channels: int, skip_channels: int, num_heads: int = 4) -> None:
        super().__init__()
        self.project = nn.Conv2d(skip_channels, channels, 1)
        self.query_norm = nn.LayerNorm(channels)
        self.key_norm = nn.LayerNorm(channels)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.WINDOW**2, channels), std=0.02))
        self.attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Decoder (B, channels, H, W) and encoder (B, skip_channels, H, W) -> (B, channels, H, W)."""
        skip = self.project(skip)
        values = self.key_norm(to_windows(skip, self.WINDOW))
        queries = self.query_norm(to_windows(x, self.WINDOW)) + self.positions
        found, _ = self.attention(queries, values + self.positions, values, need_weights=False)
        return x + skip + from_windows(found, x.shape)


def to_windows(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B * windows, side * side, C), windows row by row."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, channels)


def from_windows(x: Tensor, shape: torch.Size) -> Tensor:
    """Undo :func:`to_windows`; ``shape``: (B, C, H, W)."""
    batch, channels, height, width = shape
    side = CrossSkip.WINDOW
    x = x.reshape(batch, height // side, width // side, side, side, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(shape)


class PointHead(nn.Module):
    """Heat maps of key points, from convolutions that look near and far at once (ASPP), and from where they are.

    Args:
        channels: of the input.
        out: number of heat maps.
        hidden: channels of each branch.
    """

    DILATIONS = (1, 2, 4, 6)

    def __init__(self, channels: int, out: int, hidden: int = 32) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels + 2, hidden, 3, padding=dilation, dilation=dilation) for dilation in self.DILATIONS
        )
        self.merge = nn.Conv2d(hidden * len(self.DILATIONS), hidden, 1)
        self.last = nn.Conv2d(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W) before the sigmoid."""
        x = add_coordinates(x)
        x = torch.cat([branch(x).relu() for branch in self.branches], 1)
        return self.last(self.merge(x).relu())


class MapHead(nn.Sequential):
    """A 3 x 3 convolution to 64 channels, and a 1 x 1 convolution to the map.

    Args:
        channels: of the input.
        out: of the map.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, out, 1))
