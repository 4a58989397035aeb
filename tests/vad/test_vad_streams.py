"""The streams of VAD: the slim network computes what the masked one does, in each kind of network."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from vad_random import RATIOS, build_random, check_against, grid, outputs, some_units

from vadslim.pruning import (
    Group,
    ProofError,
    Slice,
    StructuredPruner,
    check_group,
    compose,
    find_groups,
    load_rules,
    make_structure,
    resize,
)
from vadslim.vad.detector import VAD
from vadslim.vad.example import Frame, example_frames

WIDTHS = {'embed_dims': 64, 'feedforward_channels': 48, 'num_feats': 32, 'out_channels': 64}
TINY = {
    **grid(10),
    'use_grid_mask': False,
    'pts_bbox_head.in_channels': 64,
    'pts_bbox_head.num_query': 12,
    'pts_bbox_head.map_num_vec': 6,
    'img_backbone.depth': 18,
    'img_backbone.base_channels': 16,
    'img_neck.in_channels': [128],
    **{f'pts_bbox_head.transformer.{part}.num_layers': 2 for part in ('encoder', 'decoder', 'map_decoder')},
}
# Several levels, one of them an extra convolution; a history of the car instead of a query, and its status.
RICH = {
    **TINY,
    'img_neck.in_channels': [32, 64, 128],
    'pts_bbox_head.ego_his_encoder': {'_delete_': True, 'type': 'LaneNet'},
    'pts_bbox_head.ego_lcf_feat_idx': [0, 1, 4],
    'pts_bbox_head.map_query_embed_type': 'all_pts',
    'pts_bbox_head.query_use_fix_pad': True,
}
NAMES = ['streams.image', 'streams.bev', 'streams.map', 'streams.agents']


Network = tuple[VAD, dict[str, Group]]


def network(config: str, options: dict[str, object]) -> Network:
    """A network and its Groups by name."""
    model = build_random(config, options, WIDTHS)
    return model, {group.name: group for group in find_groups(model, example_frames((64, 96), 1))}


@pytest.fixture(scope='module')
def tiny() -> Network:
    return network('VAD_tiny_stage_2', TINY)


@pytest.fixture(scope='module')
def rich() -> Network:
    return network('VAD_base_stage_2', RICH)


@pytest.fixture(params=['tiny', 'rich'])
def case(request: pytest.FixtureRequest) -> Network:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope='module')
def run() -> Callable[[VAD], object]:
    frames: list[Frame] = [
        ({'img': inputs['img'].double()}, samples) for inputs, samples in example_frames((64, 96), 2)
    ]
    return lambda model: outputs(model, frames)


def test_streams_are_free_and_off(case: Network) -> None:
    found = {name: group for name, group in case[1].items() if group.kind == 'stream'}
    assert {name: found[name].num_units for name in NAMES} == dict(zip(NAMES, (64, 64, 64, 32)))
    assert len(found) == len(NAMES)
    assert not any(group.protected or group.on for group in found.values())


def test_every_width_belongs_to_a_group(case: Network) -> None:
    """Rows and columns of each matrix of the head, but for what the world fixes (and the numbers of queries)."""
    model, groups = case
    covered = {(part.tensor, part.dim) for group in groups.values() for part in group.slices}
    fixed = {
        0: r'reference_points|branches\.\d\.[46]|ego_fut_decoder\.4|embed|query',
        1: r'can_bus_mlp\.0|pos_mlp|ego_his_encoder\.layer_seq\.lmlp_0',
    }
    free = [
        (name, dim)
        for name, parameter in model.pts_bbox_head.named_parameters(prefix='pts_bbox_head')
        for dim in range(parameter.dim())
        if parameter.dim() > 1 and (name, dim) not in covered and not re.search(fixed[dim], name)
    ]
    assert not free


@pytest.mark.parametrize('name', NAMES)
def test_each_stream_alone(tiny: Network, rich: Network, name: str, run: Callable[[VAD], object]) -> None:
    for (model, groups), ratios in ((tiny, RATIOS), (rich, (0.5,))):
        for ratio in ratios:
            check_group(model, groups[name], {name: some_units(groups[name], ratio)}, run)


def exchanged(group: Group, tensor: str, copy: int, units: tuple[int, int]) -> Group:
    """Two units swap one of the positions that they have in one tensor."""
    slices = []
    for part in group.slices:
        if part.tensor.endswith(tensor):
            index = [positions.copy() for positions in part.index]
            one, other = units
            index[one][copy], index[other][copy] = part.index[other][copy], part.index[one][copy]
            part = Slice(part.tensor, part.dim, [np.sort(positions) for positions in index], part.mask_value)
        slices.append(part)
    return replace(group, slices=tuple(slices))


@pytest.mark.parametrize(
    ('name', 'tensor', 'copy'),
    [
        ('streams.image', 'cams_embeds', 0),
        ('streams.bev', 'encoder.layers.1.attentions.0.sampling_offsets.weight', 1),  # the queries' copy
        ('streams.map', 'map_pts_embedding.weight', 0),  # the position's half
        ('streams.agents', 'agent_fus_mlp.0.weight', 7),  # one of six modes
    ],
)
def test_wrong_positions_are_caught(
    tiny: Network, name: str, tensor: str, copy: int, run: Callable[[VAD], object]
) -> None:
    model, group = tiny[0], tiny[1][name]
    kept = some_units(group, 0.5)
    wrong = exchanged(group, tensor, copy, (kept[0], group.removed(kept)[0]))
    check_against(model, group, group, kept, run)
    with pytest.raises(ProofError):
        check_against(model, wrong, group, kept, run)


def test_a_forgotten_place_is_caught(tiny: Network, run: Callable[[VAD], object]) -> None:
    model, groups = tiny
    group = groups['streams.agents']
    less = replace(group, slices=tuple(part for part in group.slices if 'pos_mlp_sa' not in part.tensor))
    with pytest.raises(ProofError, match='does not run'):
        check_group(model, less, {group.name: some_units(group, 0.5)}, run)


def test_the_recipe_for_speed_takes_half_as_much_from_channels(tiny: Network) -> None:
    model, groups = tiny
    targets = ['default', 'kind:stream', 'kind:query_key_dim', 'kind:value_dim', 'kind:point']
    rules = load_rules('configs/pruning/vad_half_macs.yaml')
    kept = StructuredPruner(0.5, allocation=rules, targets=targets).plan(model, list(groups.values()))
    for group in groups.values():
        if not group.protected and group.kind != 'query':
            removed = group.num_units - len(kept[group.name])
            assert removed == group.num_units // (4 if group.kind == 'channel' else 2), group.name


def test_a_slim_network_is_slimmed_again(rich: Network, run: Callable[[VAD], object]) -> None:
    """The streams of a slim network are found by its own widths, and the two steps make one structure."""
    model, groups = rich
    kept = {name: some_units(groups[name], 0.3) for name in NAMES}
    first = make_structure(model, list(groups.values()), kept)
    slim = resize(model, first)
    again = [group for group in find_groups(slim, example_frames((64, 96), 1)) if group.kind == 'stream']
    assert [len(kept[group.name]) for group in again] == [group.num_units for group in again]
    less = {group.name: some_units(group, 0.5) for group in again}
    check_group(slim, again, less, run)
    second = make_structure(slim, again, less)
    twice, once = resize(slim, second).state_dict(), resize(model, compose(first, second)).state_dict()
    assert all(twice[name].equal(tensor) for name, tensor in once.items())
