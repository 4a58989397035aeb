"""Every Group of VAD-tiny: the slim network computes what the masked one does, alone and together."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import nn
from vad_random import RATIOS, SMALL, build_random, check_against, outputs, some_units

from vadslim.pruning import (
    Group,
    ProofError,
    Slice,
    StructuredPruner,
    Uniform,
    check_group,
    find_groups,
    make_structure,
    resize,
)
from vadslim.vad.bev_encoder import SpatialCrossAttention, TemporalSelfAttention, Visibility
from vadslim.vad.decoders import LaneNet
from vadslim.vad.deformable_attention import CustomMSDeformableAttention
from vadslim.vad.detector import VAD
from vadslim.vad.example import example_frames, example_queue

IMAGE_HW = (64, 96)


@pytest.fixture(scope='module')
def model() -> VAD:
    return build_random('VAD_tiny_stage_2', SMALL)


@pytest.fixture(scope='module')
def groups(model: VAD) -> list[Group]:
    return find_groups(model, example_frames(IMAGE_HW, 1))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def _run_multihead(m: nn.MultiheadAttention) -> torch.Tensor:
    query, key = noise(2, 5, m.embed_dim), noise(2, 7, m.embed_dim)
    return m(query, key, key, need_weights=False)[0]


def _run_decoder_attention(m: CustomMSDeformableAttention) -> torch.Tensor:
    points = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).view(1, 6, 2)
    width = m.value_proj.in_features
    return m(noise(1, 6, width), None, noise(1, 30, width), reference_points=points, shapes=[(5, 6)])


def _run_temporal(m: TemporalSelfAttention) -> torch.Tensor:
    width = m.value_proj.in_features
    query, previous = noise(1, 30, width), noise(1, 30, width) / 2
    points = torch.rand(1, 30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return m(query, (previous, query), query / 3, points, [(5, 6)])


def _run_spatial(m: SpatialCrossAttention) -> torch.Tensor:
    width = m.deformable_attention.value_proj.in_features
    seen = Visibility(
        points=torch.rand(8, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
        rows=torch.tensor([0, 1, 2, 3, 4, 2, 3, 4]),
        counts=[5, 3],
        cameras=torch.tensor([[1.0], [1.0], [2.0], [2.0], [2.0], [1.0]], dtype=torch.float64),
    )
    return m(noise(1, 6, width), noise(2, 30, width), [(5, 6)], seen)


def _run_first_layer(m: nn.Module) -> torch.Tensor:
    """Of anything that takes the input of its first layer, features last or channels second."""
    layer = next(layer for layer in m.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    if isinstance(layer, nn.Linear):
        return m(noise(2, 5, 4, layer.in_features))
    x = noise(1, layer.in_channels, *((32, 48) if layer.in_channels == 3 else (4, 6)))
    return m([x] if type(m).__name__ == 'FPN' else x)


class Images(nn.Module):
    """The part of VAD that sees images, under VAD's names."""

    def __init__(self, model: VAD):
        super().__init__()
        self.img_backbone, self.img_neck = model.img_backbone, model.img_neck


def _run_images(m: Images) -> object:
    return m.img_neck(m.img_backbone(noise(1, 3, 32, 48)))


RUNS: list[tuple[type | str, Callable[[nn.Module], object]]] = [
    (nn.MultiheadAttention, _run_multihead),
    (CustomMSDeformableAttention, _run_decoder_attention),
    (TemporalSelfAttention, _run_temporal),
    (SpatialCrossAttention, _run_spatial),
    (FFN, _run_first_layer),
    (LaneNet, _run_first_layer),
    ('Bottleneck', _run_first_layer),
    ('ResNet', _run_first_layer),
    ('FPN', _run_first_layer),
    (Images, _run_images),
    (nn.Sequential, _run_first_layer),
]


def owner_of(model: VAD, group: Group) -> tuple[str, nn.Module, Callable[[nn.Module], object]]:
    """The innermost module around all tensors of a Group that can be run by itself, its path, and how to run it."""
    paths = [part.tensor.split('.') for part in group.slices]
    common = []
    for names in zip(*paths):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    while True:
        module = model.get_submodule('.'.join(common)) if common else Images(model)
        for kind, run in RUNS:
            if type(module).__name__ == kind if isinstance(kind, str) else isinstance(module, kind):
                return '.'.join(common), module, run
        common.pop()


def seen_from(group: Group, prefix: str) -> Group:
    """The Group with the names that its tensors have inside the module at ``prefix``."""
    start = f'{prefix}.' if prefix else ''
    return replace(
        group,
        slices=tuple(replace(part, tensor=part.tensor.removeprefix(start)) for part in group.slices),
        attrs=tuple(replace(a, module='' if a.module == prefix else a.module.removeprefix(start)) for a in group.attrs),
    )


def prunable(groups: Sequence[Group]) -> list[Group]:
    """All that may go, but the queries, whose number the outputs have: see test_vad_queries.py."""
    return [group for group in groups if not group.protected and group.kind != 'query']


def parts_of_modules(groups: Sequence[Group]) -> list[Group]:
    """All but the streams, which run through the whole network: see test_vad_streams.py."""
    return [group for group in prunable(groups) if group.kind != 'stream']


def test_every_unit_that_is_named_is_found(groups: list[Group]) -> None:
    free = prunable(groups)
    kinds = {kind: [g for g in free if g.kind == kind] for kind in ('neuron', 'head', 'channel')}
    assert len(kinds['head']) == 3 + 3 + 2 * (3 + 3) + 4  # encoder, decoders, motion and planning
    off = Counter(g.kind for g in free if not g.on)
    assert off == {'value_dim': 22, 'query_key_dim': 3 + 3 + 4, 'point': 3 + 3 + 3 + 3, 'stream': 4}
    assert sum('.ffns.' in group.name for group in kinds['neuron']) == 3 + 3 + 3 + 4
    hidden = {g.name.rsplit('.', 1)[0] for g in kinds['neuron'] if '_branches' in g.name}
    assert len(hidden) == 4 * 3 + 2
    # layers 2 to 4: two inner widths per block (13 blocks) and the residual streams; the neck's lateral convolution
    assert len(kinds['channel']) == 2 * 13 + 3 + 1
    reasons = [group.protected.split(':')[0] for group in groups if group.protected]
    assert set(reasons) == {'frozen'}


def test_each_group_alone(model: VAD, groups: list[Group]) -> None:
    checked = 0
    for group in parts_of_modules(groups):
        prefix, module, run = owner_of(model, group)
        own = seen_from(group, prefix)
        for ratio in RATIOS:
            kept = some_units(group, ratio)
            if len(kept) < group.num_units:
                check_group(module, own, {own.name: kept}, run)
                checked += 1
    assert checked > 500  # a tenth of eight heads is none


def test_wrong_positions_are_caught(model: VAD, groups: list[Group]) -> None:
    """Per kind of unit, two units swap their positions in one tensor only."""
    caught = set()
    for group in parts_of_modules(groups):
        prefix, module, run = owner_of(model, group)
        what = (group.kind, type(module).__name__)
        if what in caught:
            continue
        own = seen_from(group, prefix)
        kept = some_units(group, 0.5)
        gone = own.removed(kept)
        part = next((p for p in own.slices if p.dim == 1), own.slices[0])
        index = list(part.index)
        index[kept[0]], index[gone[0]] = index[gone[0]], index[kept[0]]
        wrong = replace(own, slices=tuple(Slice(p.tensor, p.dim, index) if p is part else p for p in own.slices))
        check_group(module, own, {own.name: kept}, run)
        with pytest.raises(ProofError):
            check_against(module, wrong, own, kept, run)
        caught.add(what)
    kinds = {kind for kind, _ in caught}
    assert kinds == {'neuron', 'head', 'channel', 'query_key_dim', 'value_dim', 'point'}
    assert len(caught) >= 17, caught


@pytest.mark.parametrize('ratio', RATIOS)
def test_all_groups_together_over_two_frames(model: VAD, groups: list[Group], ratio: float) -> None:
    frames = [({'img': inputs['img'].double()}, samples) for inputs, samples in example_frames(IMAGE_HW, 2)]
    kept = {group.name: some_units(group, ratio) for group in prunable(groups)}
    assert len(kept) > 140
    check_group(model, groups, kept, lambda m: outputs(m, frames))


@pytest.mark.parametrize(('ratio', 'targets'), [(0.1, None), (0.3, '*'), (0.5, None), (0.7, '*')])
def test_a_slim_network_trains(model: VAD, groups: list[Group], ratio: float, targets: str | None) -> None:
    pruner = StructuredPruner(ratio, allocation=Uniform(), targets=targets)
    slim = resize(model, make_structure(model, groups, pruner.plan(model, groups))).train()
    optimizer = torch.optim.AdamW((p for p in slim.parameters() if p.requires_grad), lr=1e-4)
    inputs, samples = example_queue(IMAGE_HW, 2)
    losses = slim(inputs, samples, mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    before = {name: p.detach().clone() for name, p in slim.named_parameters()}
    optimizer.step()
    moved = {name for name, p in slim.named_parameters() if not torch.equal(p, before[name])}
    assert torch.isfinite(total)
    assert moved == {name for name, p in slim.named_parameters() if p.requires_grad}


def test_a_backbone_that_trains_may_lose_channels_everywhere() -> None:
    groups = find_groups(build_random('VAD_nano_synthetic', {}), example_frames(IMAGE_HW, 1))
    backbone = {group.name: group.protected for group in groups if group.name.startswith('img_backbone')}
    assert 'img_backbone.conv1.channels' in backbone
    assert not any(backbone.values()), backbone
