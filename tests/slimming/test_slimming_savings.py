"""What each Group saves alone, against networks that were slimmed so."""

from vadslim.analysis import GroupRow, count, count_params
from vadslim.pruning import StructuredPruner, find_groups, make_structure, resize
from vadslim.slimming.savings import with_savings
from vadslim.testing import ToyNet, toy_frames


def test_savings_are_those_of_networks_slimmed_so():
    model, images = ToyNet(16, 32, 64).eval(), toy_frames()
    groups = find_groups(model, images)
    counted = count(model, lambda m: m(images))
    pruner = StructuredPruner(0.25, targets='conv1*')
    kept = pruner.plan(model, groups)
    rows = [GroupRow(r.name, r.kind, r.num_units, r.kept, r.reason) for r in pruner.report(model, groups, kept)]
    rows = {row.name: row for row in with_savings(rows, groups, kept, 0.5, model, counted)}
    ratios = {'conv1.channels': 0.25, 'attention.heads': 0.5, 'ffn.0.neurons': 0.5}  # as planned; as it would be
    for name, ratio in ratios.items():
        alone = StructuredPruner(ratio, targets=name).plan(model, groups)
        slim = resize(model, make_structure(model, groups, alone))
        assert rows[name].params_saved == count_params(model) - count_params(slim) > 0
        assert rows[name].macs_saved == counted.macs - count(slim, lambda m: m(images)).macs > 0
    protected = next(group.name for group in groups if group.protected)
    assert rows[protected].params_saved is None and rows[protected].macs_saved is None
    uncounted = with_savings(list(rows.values()), groups, kept, 0.5, model, None)
    assert {row.macs_saved for row in uncounted} == {None}
