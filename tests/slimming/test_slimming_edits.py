"""Layers and grids in the pruning command, with units, with targets, again and again, and trained afterwards."""

import copy
import json

import pytest
import torch
from deep_toys import DeepNet, train_deep, write_deep_config
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from vadslim import evaluate
from vadslim.analysis import count, count_params
from vadslim.checkpoint import load_checkpoint
from vadslim.pruning import Structure, compose, depth_edit, grid_edit, make_structure, resize
from vadslim.slimming import edits
from vadslim.testing import toy_frames

SLIM = 'vad_structured_pruned.pth'
EDITS = ('--keep-layers', 'decoder=0,2', 'map_decoder=1', '--bev-size', '2x3')
QUICK = ('--latency', '0')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of one epoch of dense training."""
    folder = tmp_path_factory.mktemp('deep')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_deep_config(epochs=1)
        return folder / train_deep()


@pytest.fixture
def deep(folder):
    write_deep_config()
    return folder


def dense_of(checkpoint):
    model = DeepNet()
    model.load_state_dict(load_checkpoint(checkpoint)['state_dict'])
    return model.eval()


def built(config, checkpoint):
    init_default_scope('mmengine')
    model = ROOT_MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(load_checkpoint(checkpoint)['state_dict'])
    return model.eval()


def report_of(folder):
    return json.loads((folder / 'report.json').read_text())


def assert_same(one, other):
    for name, value in one(toy_frames(5)).items():
        torch.testing.assert_close(value, other(toy_frames(5))[name], rtol=0, atol=0)


def test_layers_and_cells_leave_and_then_units(command, deep, trained):
    code, out, err = command('deep.py', trained, *EDITS, '--pruning-ratio', '0.5', '--output-dir', 'out', *QUICK)
    assert code == 0, err
    slim, dense = built(deep / 'out' / 'deep_slim.py', deep / 'out' / SLIM), dense_of(trained)
    assert (len(slim.decoder.layers), len(slim.heads), len(slim.map_decoder.layers)) == (2, 2, 1)
    assert (slim.rows, slim.columns, slim.cells.num_embeddings) == (2, 3, 6)
    assert slim.decoder.layers[1][0].out_features == 8
    structure = Structure.load(deep / 'out' / 'structure.json')
    assert [edit['type'] for edit in structure.edits] == ['depth', 'depth', 'grid']
    assert load_checkpoint(deep / 'out' / SLIM)['meta']['structure'] == structure.to_dict()
    assert_same(slim, resize(dense, structure))
    kept = structure.groups['decoder.layers.2.0.neurons']['kept']  # named and numbered as in the dense network
    torch.testing.assert_close(slim.decoder.layers[1][0].weight, dense.decoder.layers[2][0].weight[kept])

    report = report_of(deep / 'out')
    assert report['settings']['keep_layers'] == ['decoder=0,2', 'map_decoder=1']
    assert report['settings']['bev_size'] == '2x3' and 'recalibrate_bn' not in report['settings']
    assert {row['name'] for row in report['groups'] if 'decoder' in row['name']} == {
        'decoder.layers.0.0.neurons',
        'decoder.layers.2.0.neurons',
        'map_decoder.layers.1.0.neurons',
    }
    assert report['modules']['decoder.layers.2']['params'] == [16 * 8 * 2 + 24, 8 * 8 * 2 + 16]
    edited = resize(dense, make_structure(dense, [], {}, edits=structure.edits))
    layer = 16 * 8 * 2 + 24
    params = [layer + 36, 2 * layer, (24 - 6) * 8]
    assert [row['params_saved'] for row in report['edits']] == params
    assert sum(params) == count_params(dense) - count_params(edited)
    macs = [count(model, lambda m: m(toy_frames(4))).macs for model in (dense, edited)]
    assert [row['macs_saved'] for row in report['edits']][:2] == [4 * (256 + 32), 4 * 512]
    assert sum(row['macs_saved'] for row in report['edits']) == macs[0] - macs[1]
    with torch.no_grad():
        before, after = (model(toy_frames(4)) for model in (dense, edited))
    assert report['changes'].keys() == {'logits', 'best'} and all(report['changes'].values())
    assert before['logits'].shape[0] == 3 and after['logits'].shape[0] == 2
    header = (deep / 'out' / 'deep_slim.py').read_text().splitlines()
    assert header[0] == '"""deep.py without 50% of its units; structure.json says which.'
    assert header[2] == 'decoder.layers: 2 of 3 layers stay (0, 2)' and 'grid 4x6 -> 2x3' in header[4]
    assert 'decoder.layers: 2 of 3 layers stay (0, 2), -316 parameters, -1.15 k MACs' in ' '.join(out.split())
    assert 'these edits alone change the outputs of a small example' in out


def test_the_original_config_takes_the_checkpoint(command, deep, trained):
    assert command('deep.py', trained, *EDITS, '--pruning-ratio', '0.5', '--output-dir', 'out', *QUICK)[0] == 0
    results = [
        evaluate.evaluate(evaluate.parse_args([config, f'out/{SLIM}', '--work-dir', work]))
        for config, work in (('deep.py', 'one'), ('out/deep_slim.py', 'other'))
    ]
    assert results[0] == results[1] and 'toy/accuracy' in results[0]


def test_edits_alone(command, deep, trained):
    code, _, err = command('deep.py', trained, *EDITS, '--pruning-ratio', '0', '--output-dir', 'out', *QUICK)
    assert code == 0, err
    structure = Structure.load(deep / 'out' / 'structure.json')
    assert structure.tensors == {} and structure.groups == {} and len(structure.edits) == 3
    slim = built(deep / 'out' / 'deep_slim.py', deep / 'out' / SLIM)
    assert slim.decoder.layers[0][0].out_features == 16 and len(slim.decoder.layers) == 2
    code, out, _ = command('deep.py', trained, *EDITS, '--pruning-ratio', '0', '--output-dir', 'out', *QUICK)
    assert code == 0 and 'reused' in out
    code, _, err = command(
        'deep.py', trained, *EDITS[:-1], '2x4', '--pruning-ratio', '0', '--output-dir', 'out', *QUICK
    )
    assert code == 2 and '--overwrite' in err


@pytest.mark.parametrize('config', ['deep.py', 'out/deep_slim.py'])
def test_two_rounds(command, deep, trained, config):
    first = ('--keep-layers', 'decoder=0,2', '--bev-size', '3x4', '--pruning-ratio', '0.25', '--output-dir', 'out')
    assert command('deep.py', trained, *first, *QUICK)[0] == 0
    second = ('--keep-layers', 'decoder=1', 'map_decoder=0,2', '--bev-size', 'cells=2x2', '--pruning-ratio', '0.5')
    code, _, err = command(config, f'out/{SLIM}', *second, '--output-dir', 'again', *QUICK)
    assert code == 0, err
    dense, structure = dense_of(trained), Structure.load(deep / 'again' / 'structure.json')
    assert [edit['kept'] for edit in structure.edits if edit['type'] == 'depth'] == [[2], [0, 2]]
    assert structure.edits[1]['tensors']['cells.weight']['sizes'] == [[4, 6], [3, 4], [2, 2]]
    assert len(structure.groups['decoder.layers.2.0.neurons']['kept']) == 6  # 16, 12, 6
    (path,) = (deep / 'again').glob('*_slim.py')
    slim = built(path, deep / 'again' / SLIM)
    assert_same(slim, resize(dense, structure))
    assert slim.decoder.layers[0][0].out_features == 6 and len(slim.map_decoder.layers) == 2
    whole = report_of(deep / 'out')
    assert report_of(deep / 'again')['before']['params'] == whole['after']['params']
    names = {row['name'] for row in report_of(deep / 'again')['groups'] if row['kept'] == 6}
    assert {'decoder.layers.2.0.neurons', 'map_decoder.layers.2.0.neurons'} <= names  # the dense network's


def test_levels_take_edits_once_and_know_layers_by_their_old_numbers(command, deep, trained):
    args = ('--keep-layers', 'decoder=0,2', '--protect', 'decoder.layers.2.*', '--levels', '2', '--recalibrate-bn', '2')
    code, _, err = command('deep.py', trained, *args, '--pruning-ratio', '0.5', '--output-dir', 'out', *QUICK)
    assert code == 0, err
    structure = Structure.from_dict(load_checkpoint(deep / 'out' / 'level_2' / SLIM)['meta']['structure'])
    assert [edit['kept'] for edit in structure.edits] == [[0, 2]]
    assert len(structure.groups['decoder.layers.0.0.neurons']['kept']) == 8
    assert 'decoder.layers.2.0.neurons' not in structure.groups
    assert any('batch norms' in note for note in report_of(deep / 'out' / 'level_2')['notes'])


def test_fine_tuning_goes_on_with_the_moments(command, deep, trained):
    args = ('deep.py', trained, *EDITS, '--pruning-ratio', '0.5', '--output-dir', 'out', *QUICK)
    code, out, err = command(*args, '--fine-tune', '--fine-tune-epochs', '2')
    assert code == 0 and 'goes on to 2' in err
    assert 'optimizer state of cells.weight dropped: the parameter was resampled' in ' '.join(out.split())
    saved, dense = load_checkpoint(deep / 'out' / SLIM), load_checkpoint(trained)
    kept = saved['meta']['structure']['tensors']['decoder.layers.2.0.weight']['0']
    moments = {}
    for content, model in ((dense, DeepNet()), (saved, built(deep / 'out' / 'deep_slim.py', deep / 'out' / SLIM))):
        wrapper = build_optim_wrapper(model, Config.fromfile('deep.py').optim_wrapper)
        wrapper.load_state_dict(content['optimizer'])
        moments[len(model.decoder.layers)] = wrapper.optimizer.state[model.decoder.layers[-1][0].weight]['exp_avg']
    assert torch.equal(moments[2], moments[3][kept]) and moments[2].abs().sum() > 0
    last = load_checkpoint(deep / 'out' / 'fine_tuned' / 'epoch_2.pth')
    assert last['meta']['iter'] == 8
    assert not torch.equal(last['state_dict']['cells.weight'], saved['state_dict']['cells.weight'])
    assert last['state_dict']['cells.weight'].shape == (6, 8)


def test_averaged_weights_and_more_moments_follow(command, deep, trained):
    content = load_checkpoint(trained)
    average = {f'module.{name}': value + 1 for name, value in content['state_dict'].items()}
    torch.save({**content, 'ema_state_dict': {'steps': 4, **average}}, 'averaged.pth')
    assert command('deep.py', 'averaged.pth', *EDITS, '--pruning-ratio', '0', '--output-dir', 'out', *QUICK)[0] == 0
    saved = load_checkpoint(deep / 'out' / SLIM)
    average, state = saved['ema_state_dict'], saved['state_dict']
    assert {name.removeprefix('module.') for name in average if name != 'steps'} == set(state)
    torch.testing.assert_close(average['module.heads.1.bias'], state['heads.1.bias'] + 1)
    torch.testing.assert_close(average['module.cells.weight'], state['cells.weight'] + 1)


def test_a_dry_run_shows_what_edits_save(command, deep):
    before = sorted(deep.iterdir())
    code, out, _ = command('deep.py', 'random', *EDITS, '--dry-run', '--recalibrate-bn', '2')
    text = ' '.join(out.split())
    assert code == 0 and 'dry run: nothing was written' in text and sorted(deep.iterdir()) == before
    for words in (
        'map_decoder.layers: 1 of 3 layers stay (1), -560 parameters, -2.05 k MACs',
        'grid 4x6 -> 2x3: cells.weight resampled, -144 parameters, -1.15 k MACs',
        '--recalibrate-bn: not in a dry run',
    ):
        assert words in text


@pytest.mark.parametrize('kind', ['params', 'macs'])
def test_a_target_counts_from_the_network_before(command, deep, trained, kind):
    args = ('deep.py', trained, *EDITS, f'--target-{kind}', '70%', '--output-dir', 'out', *QUICK)
    code, out, err = command(*args)
    assert code == 0, err
    report = report_of(deep / 'out')
    before, after, edited = (
        report['before'][kind],
        report['after'][kind],
        sum(row[f'{kind}_saved'] for row in report['edits']),
    )
    target = report['target']
    assert target['before'] == before and target['goal'] == pytest.approx(0.7 * before)
    assert after <= 0.7 * before and 0.6 * before < after
    assert target['ratio'] < 0.5 or kind == 'macs'
    assert edited > 0 and target['predicted'] == after


def test_what_is_so_already_is_said(command, deep):
    args = ('deep.py', 'random', '--keep-layers', 'decoder=0,1,2', '--bev-size', '4x6', '--pruning-ratio', '0.5')
    code, out, _ = command(*args, '--output-dir', 'out', *QUICK)
    text = ' '.join(out.split())
    assert code == 0 and text.count('it is so already') == 2
    assert Structure.load(deep / 'out' / 'structure.json').edits == [] and report_of(deep / 'out')['edits'] == []


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (('--keep-layers', 'encoder=0'), ['--keep-layers encoder=0', 'decoder.layers (3), map_decoder.layers (3)']),
        (('--keep-layers', 'layers=0'), ['--keep-layers layers=0', 'decoder.layers or map_decoder.layers']),
        (('--keep-layers', 'decoder=0,3'), ['--keep-layers decoder=0,3', 'among 0 to 2']),
        (('--keep-layers', 'decoder=0,0'), ['rising']),
        (('--keep-layers', 'decoder=0', 'decoder=1'), ['--keep-layers decoder=0 decoder=1', 'two edits']),
        (('--keep-layers', 'decoder'), ['decoder is not NAME=0,2']),
        (('--keep-layers', 'cells=0'), ['cells is a Embedding', 'decoder.layers (3)']),
        (('--keep-layers', 'heads=0'), ['--keep-layers: heads: it does not run without them', 'cannot leave']),
        (('--bev-size', '4x7'), ['--bev-size 4x7', 'no side may grow']),
        (('--bev-size', '4'), ['--bev-size 4', 'another number of sides']),
        (('--bev-size', 'map=2x2'), ['no grid map, it has cells']),
        (('--bev-size', '0x2'), ['--bev-size 0x2', 'positive']),
        (('--bev-size', 'small'), ['small is not a size']),
        (('--recalibrate-bn', '0'), ['--recalibrate-bn', 'at least 1']),
    ],
)
def test_mistakes_are_one_line(command, deep, args, words):
    code, _, err = command('deep.py', 'random', *args, '--pruning-ratio', '0', '--output-dir', 'out', *QUICK)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and not (deep / 'out').exists(), err
    assert [word for word in words if word not in lines[0]] == [], lines[0]


def test_a_network_without_layers_or_grids(command, folder):
    code, _, err = command('toy.py', 'random', '--bev-size', '2x2')
    assert code == 2 and err.strip() == 'error: --bev-size 2x2: ToyNet has no grid that could be coarser'
    code, _, err = command('toy.py', 'random', '--keep-layers', 'decoder=0')
    assert code == 2 and 'the model has no decoder; layers can leave nothing' in err


def test_a_wrong_declaration_is_found_before_anything_is_written(command, deep, monkeypatch):
    """The heads stay while layers leave: those that are kept meet heads of others."""
    right = edits.depth_edit
    monkeypatch.setattr(edits, 'depth_edit', lambda *args: {**right(*args), 'beside': []})
    code, _, err = command(
        'deep.py', 'random', '--keep-layers', 'decoder=2', '--pruning-ratio', '0', '--output-dir', 'out'
    )
    assert code == 2 and '--keep-layers: decoder.layers: slim and skipped differ by' in err
    assert not (deep / 'out').exists()


def test_edits_and_units_in_one_structure_or_in_two(trained):
    dense = dense_of(trained)
    data = [depth_edit(dense, 'decoder', [1, 2]), grid_edit(dense, 'cells', (2, 3))]
    first = make_structure(dense, [], {}, edits=data)
    edited = resize(dense, first)
    assert_same(edited, resize(copy.deepcopy(dense), compose(first, make_structure(edited, [], {}))))
