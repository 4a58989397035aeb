"""The proof for every kind of layer that a trace follows: the slim network computes what the masked one does."""

from dataclasses import replace

import pytest
from trace_nets import NETS, randomize, run_of

from vadslim.pruning import Index, ProofError, StructuredPruner, check_group, find_groups

RATIOS = (0.1, 0.3, 0.5, 0.7)


@pytest.mark.parametrize('ratio', RATIOS)
@pytest.mark.parametrize('net', NETS, ids=lambda net: net.__name__)
def test_slim_equals_masked(net, ratio):
    model = randomize(net())
    groups = find_groups(model, net.example)
    assert any(not group.protected for group in groups)
    assert not any('tried' in group.protected for group in groups)
    kept = StructuredPruner(ratio, importance='Random').plan(model, groups)
    check_group(model, groups, kept, run_of(net))


@pytest.mark.parametrize('net', NETS, ids=lambda net: net.__name__)
def test_a_broken_index_fails_the_proof(net):
    """Every place of every Group matters: one whose positions are those of the next unit is found out."""
    model = randomize(net())
    groups = find_groups(model, net.example)
    for group in groups:
        if group.protected:
            continue
        kept = {group.name: list(range(1, group.num_units))}
        check_group(model, group, kept, run_of(net))
        matrices = [part for part in group.slices if 'weight' in part.tensor and part.dim == 1]
        for part in matrices[:1]:
            shifted = replace(part, index=Index.of([*part.index[1:], part.index[0]]))
            broken = replace(group, slices=[shifted if other is part else other for other in group.slices])
            with pytest.raises(ProofError):
                check_group(model, broken, kept, run_of(net))
