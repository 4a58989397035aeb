"""VAD with fewer layers is the deep one with layers that do nothing; with a coarser view it still runs and learns."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor
from vad_random import build_random, some_units

from vadslim.analysis import count
from vadslim.pruning import (
    EditError,
    Group,
    ProofError,
    check_edit,
    compose,
    depth_edit,
    find_edits,
    find_groups,
    make_structure,
    output_changes,
    resize,
    slice_state_dict,
)
from vadslim.registry import MODELS
from vadslim.vad.detector import VAD
from vadslim.vad.edits import bev_grid_edit
from vadslim.vad.example import example_frames, example_queue, run_example

HW = (32, 64)
DEEP = {
    **{
        f'pts_bbox_head.{name}.num_layers': 3
        for name in ('transformer.encoder', 'transformer.decoder', 'transformer.map_decoder', 'motion_decoder')
    },
    'pts_bbox_head.bev_h': 12,
    'pts_bbox_head.bev_w': 8,
    'pts_bbox_head.positional_encoding.row_num_embed': 12,
    'pts_bbox_head.positional_encoding.col_num_embed': 8,
    'pts_bbox_head.transformer.rotate_center': [4, 6],
    'pts_bbox_head.num_query': 16,
    'pts_bbox_head.map_num_vec': 8,
}
LAYERS = 'pts_bbox_head.{}.layers'
PER_LAYER = ('all_', 'map_all_')  # outputs with one entry per layer of a decoder


@pytest.fixture(scope='module')
def model() -> VAD:
    return build_random('VAD_nano_synthetic', DEEP)


@pytest.fixture(scope='module')
def groups(model: VAD) -> list[Group]:
    return find_groups(model)


@pytest.fixture(scope='module')
def frames() -> list:
    return [({'img': inputs['img'].double()}, samples) for inputs, samples in example_frames(HW, 2)]


def last_layer(outputs: list[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Of what each layer says the last, and all else."""
    for frame in outputs:
        yield {name: value[-1] if name.startswith(PER_LAYER) else value for name, value in frame.items()}


@pytest.mark.parametrize(
    ('stack', 'kept'),
    [
        ('transformer.encoder', [0, 2]),
        ('transformer.decoder', [0, 2]),
        ('transformer.decoder', [1]),
        ('transformer.map_decoder', [1, 2]),
        ('motion_decoder', [2]),
    ],
)
def test_a_removed_layer_is_the_identity(model: VAD, frames: list, stack: str, kept: list[int]) -> None:
    edit = depth_edit(model, stack, kept)
    assert edit['layers'] == LAYERS.format(stack)

    def run(network: VAD) -> list:
        return list(last_layer(run_example(network, frames)))

    check_edit(model, edit, run)
    if edit['beside']:
        with pytest.raises(ProofError):  # branches of other layers
            check_edit(model, {**edit, 'beside': []}, run)


def test_every_kept_layer_says_the_same(model: VAD, frames: list) -> None:
    edit = depth_edit(model, 'map_decoder', [0, 2])

    def run(network: VAD) -> list:
        said = run_example(network, frames)
        depth = len(said[0]['map_all_cls_scores'])
        chosen = [0, 2] if depth == 3 else [0, 1]
        return [value[chosen] for frame in said for name, value in frame.items() if name.startswith('map_all_')]

    check_edit(model, edit, run)


def test_residual_blocks_of_the_backbone(model: VAD, frames: list) -> None:
    def run(network: VAD) -> list:
        return run_example(network, frames[:1])

    def found(network: VAD) -> list:
        return run_example(network, example_frames(HW, 1))

    blocks = [choice.what for choice in find_edits(model, run=found) if 'img_backbone' in choice.what]
    assert 'img_backbone.layer2 without layer 1' in blocks
    assert 'img_backbone.layer2 without layer 0' not in blocks  # it halves the resolution
    check_edit(model, depth_edit(model, 'img_backbone.layer2', [0], found), run)


def test_layers_and_units_leave_together(model: VAD, groups: list[Group], frames: list) -> None:
    kept = {g.name: some_units(g, 0.5) for g in groups if g.on and not g.protected}
    edit = depth_edit(model, 'transformer.decoder', [0, 2])
    check_edit(model, edit, lambda m: list(last_layer(run_example(m, frames))), groups, kept)


def test_what_can_be_edited(model: VAD) -> None:
    frames = example_frames(HW, 1)

    counted = []

    def macs(network: VAD) -> dict[str, int]:
        modules = count(network, lambda m: run_example(m, frames)).modules
        counted.append({name: macs for name, (_, macs) in modules.items()})
        return counted[-1]

    choices = find_edits(model, macs, fractions=(0.5,))
    assert len(choices) == 4 * 3 + 1
    before = counted[0]['']
    for choice in choices:
        slim = resize(model, make_structure(model, [], {}, edits=[choice.edit]))
        params = [sum(p.numel() for p in m.parameters()) for m in (model, slim)]
        assert choice.params_saved == params[0] - params[1] > 0
        if choice.what.endswith(('map_decoder.layers without layer 1', '-> (6, 4)')):
            assert choice.macs_saved == before - macs(slim)[''] > 0


@pytest.mark.parametrize('size', [(6, 4), (9, 8)])
def test_a_coarser_view_runs_learns_and_decodes(model: VAD, size: tuple[int, int]) -> None:
    edit = bev_grid_edit(model, size)
    structure = make_structure(model, [], {}, edits=[edit])
    slim = resize(model, structure)
    head = slim.pts_bbox_head
    assert (head.bev_h, head.bev_w) == size
    assert head.transformer.rotate_center == [size[1] / 2, size[0] / 2]
    encoding = head.positional_encoding
    assert (encoding.row_num_embed, encoding.col_num_embed) == size
    assert (encoding.row_embed.num_embeddings, encoding.col_embed.num_embeddings) == size
    state = slice_state_dict(model.state_dict(), structure)
    assert all(torch.equal(value, state[name]) for name, value in slim.state_dict().items())
    frames = example_frames(HW, 2)
    with torch.no_grad():
        dense, coarse = run_example(model, frames), run_example(slim, frames)
    assert coarse[1]['bev_embed'].shape[0] == size[0] * size[1]
    changes = output_changes(dense, coarse, structure.edits)
    assert len(changes) == len([value for frame in dense for value in frame.values()])
    assert 0 < changes['1.bev_embed'] < 1.5
    assert 0 < changes['1.ego_fut_preds'] < 1.5
    learns_and_decodes(slim)


def learns_and_decodes(slim: VAD) -> None:
    inputs, samples = example_queue(HW, 2)
    slim.train()
    losses = slim(inputs, samples, mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name)
    total.backward()
    assert torch.isfinite(total)
    missing = [name for name, p in slim.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    slim.eval()
    for inputs, samples in example_frames(HW, 2):
        with torch.no_grad():
            (said,) = slim(inputs, samples, mode='predict')
        assert len(said.pred_instances_3d.scores_3d) > 0
        assert said.pred_ego.fut_preds.isfinite().all()


def test_a_shallow_network_on_a_coarse_view_learns(model: VAD, groups: list[Group]) -> None:
    """All at once, and the same network in two steps."""
    kept = {g.name: some_units(g, 0.3) for g in groups if not g.protected and (g.on or g.kind in ('query', 'stream'))}
    edits = [
        depth_edit(model, 'encoder', [1, 2]),
        depth_edit(model, 'transformer.decoder', [2]),
        depth_edit(model, 'map_decoder', [0, 1]),
        bev_grid_edit(model, (6, 8)),
    ]
    structure = make_structure(model, groups, kept, edits=edits)
    slim = resize(model, structure)
    first = make_structure(model, groups, kept, edits=edits[:2])
    middle = resize(model, first)
    second = make_structure(
        middle, [], {}, edits=[depth_edit(middle, 'map_decoder', [0, 1]), bev_grid_edit(middle, (6, 8))]
    )
    whole = compose(first, second)
    assert whole == structure
    assert all(
        torch.equal(value, slim.state_dict()[name]) for name, value in resize(middle, second).state_dict().items()
    )
    losses = slim(*example_queue(HW, 2), mode='loss')
    assert {name.split('.')[0] for name in losses if name.startswith('d')} == {'d0'}
    assert 'd0.loss_map_pts' in losses and 'd0.loss_cls' not in losses
    learns_and_decodes(slim)


def test_the_config_of_the_dense_network_builds_the_shallow_one(model: VAD, tmp_path: Path) -> None:
    structure = make_structure(
        model, [], {}, edits=[depth_edit(model, 'map_decoder', [1]), bev_grid_edit(model, (6, 4))]
    )
    structure.save(tmp_path / 'structure.json')
    cfg = Config.fromfile('configs/VAD/VAD_nano_synthetic.py')
    cfg.merge_from_dict({f'model.{key}': value for key, value in DEEP.items()})
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        slim = MODELS.build(
            {'type': 'vadslim.SlimModel', 'architecture': cfg.model, 'structure': str(tmp_path / 'structure.json')}
        )
    slim.load_state_dict(slice_state_dict(model.state_dict(), structure))  # strict
    frames = example_frames(HW, 1)
    with torch.no_grad():
        said = run_example(slim.eval(), frames)[0]
        expected = run_example(resize(model, structure), frames)[0]
    assert said['map_all_cls_scores'].shape[0] == 1
    assert all(torch.equal(value, expected[name]) for name, value in said.items())


def test_what_cannot_be(model: VAD) -> None:
    with pytest.raises(EditError, match='no side may grow'):
        bev_grid_edit(model, (12, 9))
    with pytest.raises(EditError, match='pts_bbox_head.transformer.decoder.layers'):
        depth_edit(model, 'backbone', [0])
    model = build_random('VAD_nano_synthetic', {'pts_bbox_head.positional_encoding.row_num_embed': 40})
    with pytest.raises(EditError, match='row_embed.weight'):
        bev_grid_edit(model, (6, 6))
    assert [choice for choice in find_edits(model) if 'grid' in choice.what] == []
