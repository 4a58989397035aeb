"""Networks with every kind of coupling that a trace follows."""

import torch
from torch import nn
from torch.nn import functional


def randomize(model: nn.Module) -> nn.Module:
    """Give every tensor values that no symmetry hides behind: biases, norms and running statistics, too."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator) * 0.5
            tensor.data.copy_(values.abs() + 0.5 if name.endswith('running_var') else values)
    return model


class Chain(nn.Module):
    """conv 3->8, BN, ReLU, conv 8->5 (the output)."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 5, 3)

    def forward(self, x):
        return self.two(self.norm(self.one(x)).relu())


class Residual(nn.Module):
    """A stream of 8 channels that three convolutions write and two read."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.outer(self.inner(x).relu_())
        return self.head(x.relu())


class Concat(nn.Module):
    """[4 | 6] channels concatenated, along the channels of feature maps and of token lists."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.read = nn.Conv2d(10, 7, 1)
        self.small, self.token = nn.Linear(7, 4), nn.Linear(11, 2)

    def forward(self, x):
        x = self.read(torch.cat([self.left(x), self.right(x)], 1))
        tokens = x.flatten(2).transpose(1, 2)
        return self.token(torch.cat([self.small(tokens), tokens], -1))


class Chunk(nn.Module):
    """A gated unit: 10 channels in two halves; the parts are used in the other order than they are taken."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.wide, self.read = nn.Conv2d(3, 10, 1), nn.Conv2d(5, 2, 1)
        self.third = nn.Conv2d(5, 5, 1)

    def forward(self, x):
        value, gate = self.wide(x).chunk(2, dim=1)
        return self.read(self.third(gate).sigmoid() * value)


class Grouped(nn.Module):
    """A depthwise convolution, one with 4 groups, a transposed one with 2 groups, and a GroupNorm of 4."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.depthwise(self.stem(x).relu())
        return self.head(self.up(self.norm(self.grouped(x.relu()))).relu())


class Shared(nn.Module):
    """One layer used twice in a row, so that its inputs and outputs are one set of channels."""

    example = (torch.randn(4, 3),)

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.twice(self.twice(self.first(x)).relu()).tanh())


class Tied(nn.Module):
    """The embedding is the output matrix, too."""

    example = (torch.tensor([[1, 4, 2], [0, 3, 3]]),)

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.position = nn.Parameter(torch.randn(1, 3, 8))
        self.norm = nn.LayerNorm(8)
        self.ffn = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position
        return self.head(self.norm(x + self.ffn(x)))


class Flatten(nn.Module):
    """Feature maps of 2 x 2 flattened into a linear layer, and pooled ones beside them."""

    example = (torch.randn(2, 3, 4, 4),)

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.flat, self.pooled = nn.Linear(24, 2), nn.Linear(6, 2)

    def forward(self, x):
        x = functional.avg_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.flat(x.flatten(1)) + self.pooled(x.mean((2, 3)))


class Pyramid(nn.Module):
    """Two levels, top-down sums and channels-last heads."""

    example = (torch.randn(2, 3, 8, 8),)

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.lateral_low, self.lateral_high = nn.Conv2d(6, 8, 1), nn.Conv2d(10, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        low = self.low(x)
        high = self.lateral_high(self.high(low.relu()))
        low = self.lateral_low(low) + functional.interpolate(high, scale_factor=2.0, mode='nearest')
        return [self.head(level.permute(0, 2, 3, 1)) for level in (low, high)]


class Moved(nn.Module):
    """What moves channels or halves them: pixel (un)shuffle, a gated linear unit, shifts, masks, pooling in 1-D."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.wide, self.shuffled = nn.Conv2d(3, 24, 1), nn.Conv2d(6, 4, 1)
        self.unshuffled, self.gated = nn.Conv2d(16, 10, 1), nn.Conv1d(5, 2, 1)

    def forward(self, x):
        x = self.shuffled(functional.pixel_shuffle(self.wide(x), 2).roll(1, 2).flip(3))
        x = self.unshuffled(functional.pixel_unshuffle(x.masked_fill(torch.eye(12, dtype=torch.bool), 0.5), 2))
        x = functional.avg_pool1d(functional.glu(x, 1).flatten(2), 2)
        return self.gated(functional.interpolate(x, scale_factor=2))


class ByHand(nn.Module):
    """A frozen norm written by hand, with buffers that divide, and norms that have no weights."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.group = nn.GroupNorm(4, 8, affine=False)
        self.batch, self.instance = nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8)
        for name in ('scale', 'shift', 'running_mean', 'running_var', 'divisor'):
            self.register_buffer(name, torch.rand(8) + 0.5)

    def forward(self, x):
        column = (1, -1, 1, 1)
        scale = self.scale.view(column) * (self.running_var.view(column) + 1e-5).rsqrt()
        x = self.conv(x) * scale + (self.shift.view(column) - self.running_mean.view(column) * scale)
        return self.head(self.instance(self.batch(self.group(x / self.divisor.view(column)))).relu())


class Positions(nn.Module):
    """Tokens, and the first rows of a longer table of positions."""

    example = (torch.tensor([[1, 4, 2], [0, 3, 3]]),)

    def __init__(self):
        super().__init__()
        self.embedding, self.table, self.head = nn.Embedding(5, 8), nn.Embedding(9, 8), nn.Linear(8, 2)

    def forward(self, tokens):
        return self.head(self.embedding(tokens) + self.table.weight[: tokens.shape[1]])


class Joins(nn.Module):
    """Two residual streams with several joins each, and a layer that is used on two inputs."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.stem, self.other, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        self.inner = nn.ModuleList(nn.Conv2d(8, width, 1) for width in (4, 5))
        self.outer = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in (4, 5))
        self.shared = nn.Conv2d(6, 6, 3, padding=1, groups=2)

    def forward(self, x):
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer):
            x = x + outer(inner(x).relu())
        y = self.other(x)
        return self.head(y + self.shared(y) * self.shared(y.relu()))


class Proposals(nn.Module):
    """A branch whose values leave the graph, as those of a detector's first stage do, and come back as a factor."""

    example = (torch.randn(2, 3, 6, 6),)

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.branch, self.score = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x.relu()) * self.score(self.branch(x).relu()).detach().sigmoid()


NETS = [
    Chain,
    Residual,
    Concat,
    Chunk,
    Grouped,
    Shared,
    Tied,
    Flatten,
    Pyramid,
    Moved,
    ByHand,
    Positions,
    Joins,
    Proposals,
]


def run_of(net):
    example = tuple(x.double() if x.is_floating_point() else x for x in net.example)
    return lambda model: model(*example)
