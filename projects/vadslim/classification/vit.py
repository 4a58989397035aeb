"""Vision transformers: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; names of tensors as in timm."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..cli import UserError
from ..registry import MODELS
from .classifier import Classifier, choose

# width, layers, heads, neurons of an MLP per dimension
VITS = {'tiny': (192, 9, 3, 2), 'small': (384, 12, 6, 4), 'base': (768, 12, 12, 4)}


class Attention(nn.Module):
    """Self-attention whose queries, keys and values come of one layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, length, width) -> the same shape."""
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, length, width) -> the same shape."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each after a norm and beside the stream."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, length, width) -> the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Cuts an image into squares and makes a token of each."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, patches, width), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


@MODELS.register_module()
class VisionTransformer(Classifier):
    """A class token and the patches, learned positions, pre-norm blocks, a linear classifier on the class token.

    Args:
        size: ``tiny`` (192 wide, 9 layers, 3 heads, 384 neurons: smaller than what is called ViT-Ti), ``small`` (384,
            12, 6, 1536) or ``base`` (768, 12, 12, 3072).
        num_classes: of the data.
        image_size: side of the images, which cannot be of another.
        patch_size: side of a patch.
        options: for :class:`Classifier`.

    Raises:
        UserError: there is no such size, or the patches do not fill the image.
    """

    def __init__(
        self, size: str = 'tiny', num_classes: int = 10, image_size: int = 32, patch_size: int = 4, **options: Any
    ) -> None:
        super().__init__(image_size, **options)
        width, depth, heads, ratio = choose(VITS, size, 'VisionTransformer: size')
        if patch_size < 1 or image_size % patch_size:
            raise UserError(f'VisionTransformer: patches of {patch_size} do not fill an image of {image_size} pixels')
        self.patch_embed = PatchEmbed(width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_size // patch_size) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, ratio * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def logits(self, images: Tensor) -> Tensor:
        """See :class:`Classifier`."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
