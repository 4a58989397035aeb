"""The three networks of the comparison, and the pictures that they learn: scikit-learn's handwritten digits."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from vadslim.pruning import Attr, Group, Index, Slice, declares_groups

NUM_CLASSES = 10


class ResNet50(nn.Module):
    """MMDetection's ResNet-50, global average pooling and a linear classifier."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(type='mmdet.ResNet', depth=50, out_indices=(3,), norm_eval=False))
        self.classifier = nn.Linear(2048, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 10)."""
        return self.classifier(self.backbone(images)[0].mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution where widths differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet56(nn.Module):
    """The ResNet for CIFAR of He et al. (CVPR 2016, sec. 4.2): three stages of nine blocks, 16, 32 and 64 wide."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        stages = []
        for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
            stages.append(BasicBlock(inputs, outputs, outputs // inputs))
            stages += [BasicBlock(outputs, outputs, 1) for _ in range(8)]
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(64, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 10)."""
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention as timm writes it: one layer gives [query | key | value], the scale is a number of its own."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = num_heads, width // num_heads, (width // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (query * self.scale @ key.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, -1))


class Block(nn.Module):
    """Attention and a perceptron, each on the residual stream behind a norm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViTS(nn.Module):
    """ViT-S/16 in timm's layout: 12 blocks, 384 wide, 6 heads, a class token, learnt positions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 384, 16, 16)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 384) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (size // 16) ** 2 + 1, 384) * 0.02)
        self.blocks = nn.Sequential(*[Block(384, 6) for _ in range(12)])
        self.norm, self.classifier = nn.LayerNorm(384), nn.Linear(384, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 10)."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.classifier(self.norm(self.blocks(x))[:, 0])


# vadslim knows timm's attention and prunes queries and keys apart from values; Torch-Pruning takes both, as here.


@declares_groups(Attention)
def head_widths(module: Attention, prefix: str) -> list[Group]:
    """What Torch-Pruning removes here: feature d of the queries, keys and values of all heads."""
    heads, width = module.num_heads, module.head_dim
    read = [[head * width + d for head in range(heads)] for d in range(width)]
    made = Index.of([part * heads * width + p for part in range(3) for p in positions] for positions in read)
    slices = (Slice('qkv.weight', 0, made), Slice('qkv.bias', 0, made), Slice('proj.weight', 1, Index.of(read)))
    return [Group('head_dim', 'head_dim', width, slices, (Attr('', 'head_dim'),)).prefixed(prefix)]


class Digits:
    """1797 pictures of handwritten digits, 8 x 8, in three equal channels; 397 are held out.

    Args:
        held_out: how many of these are looked at; None is all.
    """

    def __init__(self, held_out: int | None = None) -> None:
        from sklearn.datasets import load_digits

        data = load_digits()
        order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
        images = torch.tensor(data.images, dtype=torch.float32)[order, None].expand(-1, 3, -1, -1)
        images, labels = (images - images.mean()) / images.std(), torch.tensor(data.target)[order]
        self.train, self.test = (images[:1400], labels[:1400]), (images[1400:][:held_out], labels[1400:][:held_out])


def enlarged(images: Tensor, size: int) -> Tensor:
    """(B, 3, 8, 8) -> (B, 3, size, size)."""
    return F.interpolate(images, size=(size, size), mode='bilinear')


def train(model: nn.Module, digits: Digits, size: int, steps: int, rate: float) -> None:
    """Train a network in place: AdamW, batches of 64, one cycle of the learning rate; the seed is 0."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    images, labels = digits.train
    model.train()
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(enlarged(images[batch], size)), labels[batch]).backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, digits: Digits, size: int) -> tuple[float, float]:
    """Cross-entropy and share of pictures classified right, on the held-out ones."""
    images, labels = digits.test
    logits = torch.cat([model(enlarged(batch, size)) for batch in images.split(100)])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
