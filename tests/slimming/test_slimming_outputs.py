"""What the command writes: a checkpoint, a config that runs it, a structure, numbers that a recount confirms."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from vadslim.analysis import count, count_params
from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.pruning import Structure, resize
from vadslim.registry import MODELS
from vadslim.slimming.network import load_network
from vadslim.testing import ToyNet, toy_frames, write_toy_config

SLIM = 'vad_structured_pruned.pth'
PAGES = {'report.html', 'layers.csv', 'widths.png', 'params.png', 'macs.png', 'latency.png'}
FILES = {SLIM, 'structure.json', 'toy_slim.py', 'report.json', 'done.json', 'step.json', *PAGES}


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def toy_checkpoint(path, seed=3, **meta):
    torch.manual_seed(seed)
    model = ToyNet()
    for module in (model.bn1, model.bn2):
        torch.nn.init.uniform_(module.running_mean, -1, 1)
        torch.nn.init.uniform_(module.weight, 0.5, 2)
    save_checkpoint({'state_dict': model.state_dict(), 'meta': meta}, path)
    return model.eval()


def built(config):
    """The network of a config, as MMEngine's Runner builds it."""
    init_default_scope('mmengine')
    return ROOT_MODELS.build(Config.fromfile(config).model).eval()


def loaded(config, checkpoint):
    model = built(config)
    model.load_state_dict(load_checkpoint(checkpoint)['state_dict'], strict=True)
    return model


@pytest.fixture
def pruned(command, folder):
    dense = toy_checkpoint(folder / 'toy.pth', epoch=2, dataset_meta={'classes': ['a']})
    code, out, _ = command('toy.py', 'toy.pth', '--pruning-ratio', '0.5', '--output-dir', 'out', '--latency', '2')
    assert code == 0
    return dense, out


def test_the_files(pruned, folder):
    assert names_in(folder / 'out') == FILES
    assert not (folder / 'work').exists()
    text = (folder / 'out' / 'toy_slim.py').read_text()
    assert "_base_ = ['../toy.py']" in text and 'vadslim.SlimModel' in text
    assert set(json.loads((folder / 'out' / 'done.json').read_text())['outputs']) == FILES - {'done.json', 'step.json'}


def test_the_checkpoint_runs_under_the_config(pruned, folder):
    dense, _ = pruned
    slim = loaded(folder / 'out' / 'toy_slim.py', folder / 'out' / SLIM)
    assert slim.conv1.out_channels == 4 and slim.ffn[0].out_features == 16 and type(slim) is ToyNet
    content = load_checkpoint(folder / 'out' / SLIM)
    assert content['meta']['dataset_meta'] == {'classes': ['a']} and content['meta']['epoch'] == 2
    structure = Structure.load(folder / 'out' / 'structure.json')
    assert content['meta']['structure'] == structure.to_dict()
    assert (content['version'], content['epoch'], content['metadata']['stage']) == (2, 2, 'prune')
    torch.testing.assert_close(slim(toy_frames()), resize(dense, structure).eval()(toy_frames()))


def test_the_report_equals_a_recount(pruned, folder):
    report = json.loads((folder / 'out' / 'report.json').read_text())
    network = load_network(folder / 'toy.py', [], folder / 'toy.pth', 0, 'cpu')
    _, example, _ = network.examples
    slim = loaded(folder / 'out' / 'toy_slim.py', folder / 'out' / SLIM)
    for part, model in (('before', network.model), ('after', slim)):
        counted = count(model, example.run)
        assert report[part]['params'] == counted.params == count_params(model)
        assert report[part]['macs'] == counted.macs > 0
        assert report[part]['uncounted'] == []
        assert report[part]['latency']['repeats'] == 2
    assert report['after']['file_bytes'] == (folder / 'out' / SLIM).stat().st_size
    assert report['before']['file_bytes'] == (folder / 'toy.pth').stat().st_size
    assert report['settings']['ratio'] == 0.5
    structure = json.loads((folder / 'out' / 'structure.json').read_text())
    kept = {row['name']: row['kept'] for row in report['groups'] if row['kept'] < row['num_units']}
    assert kept == {name: len(group['kept']) for name, group in structure['groups'].items()}
    whole = [row for row in report['groups'] if row['kept'] == row['num_units']]
    assert whole and all(row['reason'] for row in whole)


def test_the_table_is_printed(pruned):
    _, out = pruned
    report = [line for line in out.splitlines() if 'parameters' in line or 'MACs' in line or 'kept whole' in line]
    assert len(report) >= 3


def test_the_ratio_is_honoured(command, folder):
    for ratio, channels, neurons in (('0', 8, 32), ('0.25', 6, 24), ('0.7', 3, 10)):
        out = f'out{ratio}'
        args = ('--pruning-ratio', '0.1', '--structured-ratio', ratio, '--output-dir', out, '--latency', '0')
        assert command('toy.py', 'random', *args)[0] == 0
        slim = loaded(folder / out / 'toy_slim.py', folder / out / SLIM)
        assert (slim.conv1.out_channels, slim.ffn[0].out_features) == (channels, neurons)


def test_the_default_folder_and_ratio(command, folder):
    assert command('toy.py', 'random', '--latency', '0')[0] == 0
    assert built(folder / 'pruned_models' / 'toy_slim.py').ffn[0].out_features == 32 - 9


def test_targets_protect_and_round_to(command, folder):
    args = ('--pruning-ratio', '0.5', '--protect', 'kind:head', '--targets', '*', '--round-to', '3', '--latency', '0')
    assert command('toy.py', 'random', *args, '--output-dir', 'out')[0] == 0
    slim = built(folder / 'out' / 'toy_slim.py')
    assert slim.attention.num_heads == 4 and slim.ffn[0].out_features == 18 and slim.conv1.out_channels == 6


def test_a_second_run_reuses(pruned, command, folder):
    before = (folder / 'out' / SLIM).stat().st_mtime_ns
    code, out, _ = command('toy.py', 'toy.pth', '--pruning-ratio', '0.5', '--output-dir', 'out', '--latency', '0')
    assert code == 0 and 'reused' in out
    assert (folder / 'out' / SLIM).stat().st_mtime_ns == before


def test_dry_run_prints_the_plan_and_writes_nothing(command, folder):
    before = names_in(folder)
    code, out, _ = command('toy.py', 'random', '--dry-run', '--output-dir', 'out', '--fine-tune')
    assert code == 0 and names_in(folder) - {'__pycache__'} == before
    for words in ('ffn.0', 'conv1', 'attention', 'kept whole', 'parameters', 'MACs', 'dry run'):
        assert words in out


def test_the_same_seed_gives_the_same_file(command, folder):
    for out, seed in (('a', '5'), ('b', '5'), ('c', '6')):
        assert command('toy.py', 'random', '--output-dir', out, '--seed', seed, '--latency', '0')[0] == 0
    a, b, c = (load_checkpoint(folder / out / SLIM)['state_dict']['conv2.weight'] for out in 'abc')
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_options_of_the_config_go_into_the_slim_one(command, folder):
    args = ('--cfg-options', 'model.hidden=40', 'train_dataloader.batch_size=2', '--latency', '0')
    assert command('toy.py', 'random', '--pruning-ratio', '0.5', '--output-dir', 'out', *args)[0] == 0
    cfg = Config.fromfile(folder / 'out' / 'toy_slim.py')
    assert cfg.train_dataloader.batch_size == 2
    assert loaded(folder / 'out' / 'toy_slim.py', folder / 'out' / SLIM).ffn[0].out_features == 20


def test_pretrained_weights_are_not_asked_for(command, folder):
    write_toy_config('hungry.py', 'work', model={'type': 'vadslim.ToyNet', 'pretrained': 'torchvision://resnet50'})
    assert command('hungry.py', 'random', '--output-dir', 'out', '--latency', '0')[0] == 0
    init_default_scope('mmengine')
    MODELS.build(Config.fromfile(folder / 'out' / 'hungry_slim.py').model)


@pytest.mark.parametrize('config', ['toy.py', 'out/toy_slim.py'])
def test_a_slim_network_can_be_slimmed_again(pruned, command, folder, config):
    args = ('--pruning-ratio', '0.5', '--output-dir', 'again', '--latency', '0')
    assert command(config, f'out/{SLIM}', *args)[0] == 0
    (path,) = (folder / 'again').glob('*_slim.py')
    slim = loaded(path, folder / 'again' / SLIM)
    assert slim.conv1.out_channels == 2 and slim.ffn[0].out_features == 8 and slim.attention.num_heads == 1
    structure = Structure.load(folder / 'again' / 'structure.json')
    torch.testing.assert_close(slim(toy_frames()), resize(pruned[0], structure).eval()(toy_frames()))


def test_moments_of_the_optimizer_are_sliced(command, folder):
    cfg = Config.fromfile(folder / 'toy.py')
    dense = toy_checkpoint(folder / 'toy.pth')
    wrapper = build_optim_wrapper(dense, cfg.optim_wrapper)
    dense(toy_frames()).square().sum().backward()
    wrapper.step()
    content = {'state_dict': dense.state_dict(), 'meta': {'epoch': 1, 'iter': 4}, 'optimizer': wrapper.state_dict()}
    save_checkpoint({**content, 'message_hub': {}, 'ema_state_dict': {}}, folder / 'trained.pth')
    code, out, _ = command('toy.py', 'trained.pth', '--pruning-ratio', '0.5', '--output-dir', 'out', '--latency', '0')
    assert code == 0 and 'ema_state_dict dropped' in out and 'paramwise_options' not in out
    saved = load_checkpoint(folder / 'out' / SLIM)
    kept = saved['meta']['structure']['tensors']['ffn.0.weight']
    slim = loaded(folder / 'out' / 'toy_slim.py', folder / 'out' / SLIM)
    again = build_optim_wrapper(slim, cfg.optim_wrapper)
    again.load_state_dict(saved['optimizer'])
    moment = again.optimizer.state[slim.ffn[0].weight]['exp_avg']
    expected = wrapper.optimizer.state[dense.ffn[0].weight]['exp_avg'][kept['0']][:, kept['1']]
    assert torch.equal(moment, expected) and moment.abs().sum() > 0


def test_an_optimizer_that_does_not_fit_is_dropped_with_a_line(command, folder):
    dense = toy_checkpoint(folder / 'toy.pth')
    state = torch.optim.SGD(dense.parameters(), 0.1).state_dict()
    save_checkpoint({'state_dict': dense.state_dict(), 'meta': {}, 'optimizer': state}, folder / 'other.pth')
    code, out, _ = command('toy.py', 'other.pth', '--output-dir', 'out', '--latency', '0')
    assert code == 0 and 'optimizer state dropped' in out
    assert 'optimizer' not in load_checkpoint(folder / 'out' / SLIM)
