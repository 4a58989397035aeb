"""Object queries and map vectors as units: the slim network says of the kept ones what the masked one says."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from vad_random import build_random, check_against, some_units

from vadslim.pruning import (
    Group,
    ProofError,
    StructuredPruner,
    check_group,
    find_groups,
    hide_keys,
    make_structure,
    resize,
)
from vadslim.vad.detector import VAD
from vadslim.vad.example import example_frames, example_queue, run_example
from vadslim.vad.groups import queries as queries_module

HW = (32, 64)
SMALL = {
    'pts_bbox_head.bev_h': 12,
    'pts_bbox_head.bev_w': 8,
    'pts_bbox_head.positional_encoding.row_num_embed': 12,
    'pts_bbox_head.positional_encoding.col_num_embed': 8,
    'pts_bbox_head.num_query': 16,
    'pts_bbox_head.map_num_vec': 8,
    'pts_bbox_head.map_thresh': 0.0,  # every agent sees every vector
    'pts_bbox_head.dis_thresh': 2.0,
}


@pytest.fixture(scope='module')
def model() -> VAD:
    return build_random('VAD_nano_synthetic', SMALL)


@pytest.fixture(scope='module')
def groups(model: VAD) -> list[Group]:
    return find_groups(model)


def of_kept(groups: list[Group], kept: dict[str, list[int]], count: int = 1) -> Callable[[VAD], list]:
    """What a network says of the kept queries: a dense one says more."""
    frames = [({'img': inputs['img'].double()}, samples) for inputs, samples in example_frames(HW, count)]
    units = {group.name: kept.get(group.name, list(range(group.num_units))) for group in groups}
    objects, vectors = (units[group.name] for group in sorted(groups, key=lambda group: -group.num_units))

    def run(network: VAD) -> list:
        said = run_example(network, frames)
        for frame in said:
            for name, value in frame.items():
                chosen = vectors if name.startswith('map_all_') else objects if name.startswith('all_') else None
                if chosen is not None and value.shape[2] != len(chosen):
                    frame[name] = value[:, :, chosen]
        return said

    return run


def query_groups(groups: list[Group]) -> list[Group]:
    """Objects (16) and vectors (8)."""
    found = [group for group in groups if group.kind == 'query']
    assert [group.num_units for group in sorted(found, key=lambda group: -group.num_units)] == [16, 8]
    return found


def test_off_unless_named(model: VAD, groups: list[Group]) -> None:
    assert not any(group.on for group in query_groups(groups))
    plan = StructuredPruner(0.5).plan(model, groups)
    assert [len(plan[group.name]) for group in query_groups(groups)] == [g.num_units for g in query_groups(groups)]
    plan = StructuredPruner(0.5, targets='kind:query').plan(model, groups)
    assert sorted(len(plan[group.name]) for group in query_groups(groups)) == [4, 8]


def test_each_alone_and_both(model: VAD, groups: list[Group]) -> None:
    found = query_groups(groups)
    for ratio in (0.2, 0.7):
        kept = {group.name: some_units(group, ratio) for group in found}
        for chosen in ({found[0].name: kept[found[0].name]}, {found[1].name: kept[found[1].name]}, kept):
            check_group(model, found, chosen, of_kept(found, chosen))


def test_points_with_queries_of_their_own() -> None:
    model = build_random('VAD_nano_synthetic', {**SMALL, 'pts_bbox_head.map_query_embed_type': 'all_pts'})
    found = query_groups(find_groups(model))
    assert {part.tensor.split('.')[1] for group in found for part in group.slices} == {
        'query_embedding',
        'map_query_embedding',
    }
    kept = {group.name: some_units(group, 0.5) for group in found}
    check_group(model, found, kept, of_kept(found, kept))


def test_with_everything_else(model: VAD, groups: list[Group]) -> None:
    found = query_groups(groups)
    kept = {
        group.name: some_units(group, 0.5) for group in groups if not group.protected and (group.on or group in found)
    }
    check_group(model, groups, kept, of_kept(found, kept, 2))


def test_wrong_rows_and_forgotten_keys_are_caught(
    model: VAD, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = query_groups(groups)
    for group in found:
        kept = some_units(group, 0.5)
        gone = group.removed(kept)
        (part,) = group.slices
        index = list(part.index)
        index[kept[0]], index[gone[0]] = index[gone[0]], index[kept[0]]
        wrong = replace(group, slices=(replace(part, index=index),))
        with pytest.raises(ProofError):
            check_against(model, wrong, group, kept, of_kept(found, {group.name: kept}))


def test_each_attention_has_to_hide_its_keys(model: VAD, groups: list[Group], monkeypatch: pytest.MonkeyPatch) -> None:
    found = query_groups(groups)
    kept = {group.name: some_units(group, 0.5) for group in found}
    hidden = 0

    def all_but(forgotten: int) -> Callable[..., None]:
        numbers = iter(range(100))

        def hide(*args: object) -> None:
            nonlocal hidden
            number = next(numbers)
            hidden = max(hidden, number + 1)
            if number != forgotten:
                hide_keys(*args)

        return hide

    # two layers of each perception decoder; agents and the map for motion, and for the plan
    for forgotten in range(8):
        monkeypatch.setattr(queries_module, 'hide_keys', all_but(forgotten))
        with pytest.raises(ProofError):
            check_group(model, found, kept, of_kept(found, kept))
    assert hidden == 8


@pytest.mark.parametrize('kept_of', [lambda n: 1, lambda n: n // 2])
def test_few_queries_learn_and_decode(model: VAD, groups: list[Group], kept_of: Callable[[int], int]) -> None:
    found = query_groups(groups)
    kept = {group.name: range(kept_of(group.num_units)) for group in found}
    slim = resize(model, make_structure(model, groups, kept)).train()
    losses = slim(*example_queue(HW, 2), mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None for p in slim.parameters() if p.requires_grad)
    slim.eval()
    ((inputs, samples),) = example_frames(HW, 1)
    with torch.no_grad():
        (said,) = slim(inputs, samples, mode='predict')
    assert len(said.pred_map.scores) <= 3 * kept_of(8)
    assert 0 < len(said.pred_instances_3d.scores_3d) <= 10 * kept_of(16)
