"""What the pruning command compares before it writes: VAD's small example suits networks of any width."""

from vad_random import build_random

from vadslim.pruning import StructuredPruner, find_groups, wrong_groups
from vadslim.vad.counting import vad_example


def test_every_width_may_shrink():
    model = build_random('VAD_nano_synthetic', {'use_grid_mask': False})
    example = vad_example(model, None, small=True)
    groups = [group for group in find_groups(model, example.run) if group.kind != 'query']
    kept = StructuredPruner(0.4, targets='*').plan(model, groups)
    streams = [group for group in groups if group.kind == 'stream']
    assert streams and all(len(kept[group.name]) < group.num_units for group in streams)
    assert wrong_groups(model, groups, kept, example.run) == {}
