"""Counts against sums done by hand and against torch's own counter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vadslim.analysis.complexity import count
from vadslim.analysis.operators import SAMPLE_MACS


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.up(self.depthwise(self.stem(x)))
        return self.head(x.mean((2, 3)))


def test_convolutions_by_hand():
    counted = count(ConvNet(), lambda m: m(torch.zeros(2, 3, 16, 12)))
    stem = 2 * 8 * 8 * 6 * 3 * 9  # batch, out, height, width, in, kernel
    depthwise = 2 * 8 * 8 * 6 * 9
    up = 2 * 8 * 8 * 6 * 4 * 4  # every input position touches the 2 x 2 kernel of every output channel
    head = 2 * 4 * 5
    assert counted.modules['stem'] == (3 * 8 * 9 + 8 + 16, stem)
    assert counted.modules['stem.0'][1] == stem
    assert counted.modules['depthwise'] == (8 * 9, depthwise)
    assert counted.modules['up'][1] == up
    assert counted.modules['head'] == (25, head)
    assert counted.macs == stem + depthwise + up + head
    assert counted.params == sum(p.numel() for p in ConvNet().parameters())
    assert counted.uncounted == [] and counted.sampling_macs == 0
    assert counted.activations == 2 * (8 * 8 * 6 + 8 * 8 * 6 + 4 * 16 * 12 + 5)


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_attention_by_hand(mode):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    attention.train(mode == 'train')
    x = torch.zeros(2, 7, 32)
    counted = count(attention, lambda m: m(x, x, x, need_weights=False))
    projections = 4 * 2 * 7 * 32 * 32
    scores_and_values = 2 * (2 * 7 * 7 * 32)
    assert counted.macs == projections + scores_and_values
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_fused_encoder_layer_is_not_an_opaque_operator():
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval()
    counted = count(layer, lambda m: m(torch.zeros(1, 5, 16)))
    assert counted.macs == 4 * 5 * 16 * 16 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 24
    assert counted.uncounted == []


def test_inference_mode_counts_the_same():
    model = ConvNet().eval()
    x = torch.zeros(1, 3, 16, 12)

    @torch.inference_mode()
    def run(m):
        return m(x.clone())

    assert count(model, run) == count(model, lambda m: m(x))


def test_equals_torchs_counter_on_products_of_every_kind():
    class Products(nn.Module):
        def forward(self, a, b):
            c = torch.einsum('bij,bjk->bik', a, b) + torch.baddbmm(torch.zeros(1), a, b)
            return F.linear(c, torch.ones(6, c.shape[-1])) @ torch.ones(6, 2)

    a, b = torch.zeros(3, 4, 5), torch.zeros(3, 5, 7)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        Products()(a, b)
    assert 2 * count(Products(), lambda m: m(a, b)).macs == flops.get_total_flops() > 0


def test_matrix_vector_products():
    class Dot(nn.Module):
        def forward(self, a, v):
            return torch.dot(a @ v, torch.ones(4))

    assert count(Dot(), lambda m: m(torch.zeros(4, 6), torch.zeros(6))).macs == 4 * 6 + 4


def test_bilinear_sampling_is_kept_apart_and_nearest_is_free():
    class Sample(nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.mode = mode

        def forward(self, x, grid):
            return F.grid_sample(x, grid, mode=self.mode, align_corners=False)

    x, grid = torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 5, 2)
    bilinear = count(Sample('bilinear'), lambda m: m(x, grid))
    assert (bilinear.macs, bilinear.sampling_macs) == (0, 2 * 3 * 4 * 5 * SAMPLE_MACS)
    nearest = count(Sample('nearest'), lambda m: m(x, grid))
    assert nearest.sampling_macs == 0 and nearest.activations == bilinear.activations == 2 * 3 * 4 * 5
    assert [(s.module, s.macs) for s in bilinear.samplings] == [('', bilinear.sampling_macs)]


class MultiScaleDeformableAttnFunction(torch.autograd.Function):
    """Named like the compiled kernel; the work is out of the dispatcher's sight."""

    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, step):
        return value


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x


class HiddenToo(torch.autograd.Function):
    """In the style that has no context in its forward, and kept under another name, as mmcv keeps RoIAlign's."""

    @staticmethod
    def forward(x):
        return x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


hidden_too = HiddenToo.apply


def test_compiled_kernels_are_counted_by_the_table_or_listed():
    class Kernels(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()
            self.inner.forward = lambda x: Hidden.apply(x)

        def forward(self, value, locations):
            value = MultiScaleDeformableAttnFunction.apply(value, None, None, locations, None, 64)
            return self.inner(value)

    value, locations = torch.zeros(2, 10, 4, 8), torch.zeros(2, 6, 4, 1, 3, 2)
    forward = vars(Hidden)['forward']
    counted = count(Kernels(), lambda m: m(value, locations))
    samples = 2 * 6 * 4 * 1 * 3 * 8
    assert counted.sampling_macs == samples * SAMPLE_MACS and counted.activations == samples
    assert counted.uncounted == ['autograd function Hidden in inner (1x)']
    assert vars(Hidden)['forward'] is forward
    assert count(nn.Identity(), lambda m: hidden_too(value)).uncounted == ['autograd function HiddenToo (1x)']


def test_what_no_table_knows_is_listed():
    class Spectral(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x), torch.linalg.inv(torch.eye(3))

    names = count(Spectral(), lambda m: m(torch.zeros(4))).uncounted
    assert any('fft' in n for n in names) and any('linalg_inv' in n for n in names)


def test_shared_and_repeated_modules():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)
            self.b = self.a
            self.tied = nn.Linear(4, 4, bias=False)
            self.tied.weight = self.a.weight

        def forward(self, x):
            return self.tied(self.b(self.a(x)))

    counted = count(Twice(), lambda m: m(torch.zeros(1, 4)))
    assert counted.params == 16 and counted.macs == 48
    assert counted.modules['a'] == (16, 32) and counted.modules['tied'] == (16, 16)
    assert counted.calls == {'a': 2, 'tied': 1} and counted.activations == 3 * 4


def test_the_tree_of_names_adds_up_whoever_calls():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)])

        def apply_all(self, x):
            for layer in self.layers:
                x = layer(x)
            return x @ torch.ones(2, 3)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner.apply_all(x)

    modules = count(Outer(), lambda m: m(torch.zeros(1, 4))).modules
    assert modules['inner.layers.1'][1] == 8 and modules['inner.layers'][1] == modules['inner'][1] == 24
    assert modules[''] == (24, 30)  # the product of the method is the caller's


def test_parameters_that_no_operator_reads_are_told():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 2)
            self.table = nn.Embedding(5, 4)  # read without a call

        def forward(self, x):
            return self.used(x + self.table.weight[:1])

    x = torch.zeros(1, 4)
    assert count(Part(), lambda m: m(x)).unread == ['spare.weight', 'spare.bias']


def test_the_model_is_left_as_it_was():
    model = ConvNet().train()
    x = torch.zeros(2, 3, 16, 12)
    with pytest.raises(RuntimeError):
        count(model, lambda m: m(torch.zeros(2, 4, 16, 12)))
    count(model, lambda m: m(x))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()


class Projecting(nn.Module):
    """Which rows are read depends on a product of computed factors; what is read, on weights."""

    def __init__(self, ask=lambda features: None):
        super().__init__()
        self.net, self.attention = ConvNet(), nn.MultiheadAttention(8, 2, batch_first=True)
        self.read, self.ask, self.computed = nn.Linear(5, 8, bias=False), ask, []

    def forward(self, x, camera):
        seen = (camera @ torch.ones(2)) > 1
        rows = torch.zeros(3, 8)
        rows[:2] = self.read(self.net(x[seen]))[1:].relu_()
        self.computed.append(type(rows.sum(1).to(torch.float64)) is torch.Tensor)
        self.ask(rows)
        return self.attention(rows[None], rows[None], rows[None])


X, CAMERA = torch.rand(4, 3, 16, 12), torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 2.0], [3.0, 0.0]])


def test_values_that_come_from_weights_need_not_be_computed():
    model = Projecting().eval()
    counted = count(model, lambda m: m(X, CAMERA))
    assert counted.macs > 0 and counted.modules['attention'][1] > 0
    assert count(model, lambda m: m(X, CAMERA), compute=False) == counted
    assert model.computed == [True, False]


@pytest.mark.parametrize(
    'ask',
    [
        lambda features: features.max().item(),
        lambda features: features[features > 0],
        lambda features: features.nonzero(),
        lambda features: features.numpy(),
        lambda features: features.tolist(),
        lambda features: features.squeeze_(0).unsqueeze_(0),
        lambda features: features.data_ptr() or 1 / 0,
    ],
)
def test_where_such_a_value_is_asked_for_everything_is_computed(ask):
    model = Projecting(lambda rows: ask(rows * 2)).eval()
    assert count(model, lambda m: m(X, CAMERA), compute=False) == count(model, lambda m: m(X, CAMERA))
    assert model.computed == [False, True, True]


def test_an_error_of_the_model_is_told_without_values_too():
    with pytest.raises(ZeroDivisionError):
        count(Projecting(lambda features: 1 / 0), lambda m: m(X, CAMERA), compute=False)
