"""Fine-tuning and retraining after pruning: folders, files, epochs, reuse."""

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from checkpoint_files import mmcv_like
from vadslim.checkpoint import load_checkpoint
from vadslim.slimming.options import parse
from vadslim.slimming.training import training_config
from vadslim.testing import ToyNet, write_toy_config

SLIM = 'vad_structured_pruned.pth'
PRUNE = ('--pruning-ratio', '0.5', '--output-dir', 'out', '--latency', '0')


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def checkpoints(folder):
    return {name for name in names_in(folder) if name.endswith('.pth')}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of one epoch of dense training."""
    work = tmp_path_factory.mktemp('dense')
    cfg = Config.fromfile(write_toy_config(work / 'toy.py', work / 'work', epochs=1, log_level='ERROR'))
    cfg.experiment_name = 'dense_for_slimming'
    Runner.from_cfg(cfg).train()
    return work / 'work' / 'epoch_1.pth'


def test_retrain(command, folder, trained):
    code, _, err = command('toy.py', trained, *PRUNE, '--fine-tune', '--retrain', '--fine-tune-epochs', '2')
    assert code == 0 and 'Traceback' not in err
    assert not (folder / 'out' / 'fine_tuned').exists()
    results = folder / 'out' / 'retrained'
    assert checkpoints(results) == {'epoch_1.pth', 'epoch_2.pth', 'latest.pth'}
    last = load_checkpoint(results / 'latest.pth')
    assert last['meta']['epoch'] == 2 and last['fine_tune']['mode'] == 'retrain'
    assert last['meta']['structure'] == load_checkpoint(folder / 'out' / SLIM)['meta']['structure']
    assert last['state_dict']['conv1.weight'].shape[0] == 4
    start = load_checkpoint(folder / 'out' / SLIM)['state_dict']
    assert not torch.equal(last['state_dict']['conv2.weight'], start['conv2.weight'])
    assert any('accuracy' in path.read_text() for path in results.rglob('*.json'))  # it was evaluated


def test_fine_tune_goes_on_from_the_epoch_of_the_dense_training_and_is_reused(command, folder, trained):
    args = ('toy.py', trained, *PRUNE, '--fine-tune', '--fine-tune-epochs', '3')
    code, _, err = command(*args)
    assert code == 0 and 'goes on to 3' in err
    results = folder / 'out' / 'fine_tuned'
    assert checkpoints(results) == {'epoch_2.pth', 'epoch_3.pth', 'latest.pth'}
    last = load_checkpoint(results / 'epoch_3.pth')
    assert last['meta']['iter'] == 12 and last['fine_tune']['start_epoch'] == 1
    stamp = (results / 'epoch_3.pth').stat().st_mtime_ns
    code, out, err = command(*args)
    assert code == 0 and 'reused' in out and 'fine-tune is done already, reused' in err
    assert (results / 'epoch_3.pth').stat().st_mtime_ns == stamp


def test_a_checkpoint_of_mmcv_1_is_fine_tuned_from_epoch_0(command, folder, trained):
    """Its optimizer's moments are sliced like those of MMEngine's, under the names that the config gives them."""
    model = ToyNet()
    model.load_state_dict(load_checkpoint(trained)['state_dict'])
    old = mmcv_like(model)
    torch.save(old, 'epoch_60.pth')
    code, out, err = command('toy.py', 'epoch_60.pth', *PRUNE, '--fine-tune', '--fine-tune-epochs', '1')
    assert code == 0 and 'was not written by MMEngine: its weights are loaded, training starts at epoch 0' in err
    slim = load_checkpoint(folder / 'out' / SLIM)
    assert slim['meta']['CLASSES'] == ['car', 'truck'] and 'config' not in slim['meta']
    shapes = [tuple(value.shape) for value in model.parameters()]
    number = shapes.index((8, 3, 3, 3))
    assert old['optimizer']['state'][number]['exp_avg'].shape == (8, 3, 3, 3)
    assert slim['optimizer']['state'][number]['exp_avg'].shape == (4, 3, 3, 3)
    last = load_checkpoint(folder / 'out' / 'fine_tuned' / 'epoch_1.pth')
    assert last['meta']['iter'] == 4 and last['fine_tune']['start_epoch'] == 0


def test_an_interrupted_fine_tune_goes_on(command, folder, trained):
    args = ('toy.py', trained, *PRUNE, '--fine-tune', '--fine-tune-epochs', '3')
    assert command(*args)[0] == 0
    results = folder / 'out' / 'fine_tuned'
    whole = load_checkpoint(results / 'epoch_3.pth')['state_dict']
    for name in ('epoch_3.pth', 'latest.pth', 'done.json'):
        (results / name).unlink()
    (results / 'last_checkpoint').write_text(str(results / 'epoch_2.pth'))
    code, _, err = command(*args)
    assert code == 0 and 'was interrupted after epoch 2' in err
    again = load_checkpoint(results / 'epoch_3.pth')['state_dict']
    assert all(torch.equal(whole[name], again[name]) for name in whole)

    stamp = (results / 'epoch_3.pth').stat().st_mtime_ns
    (results / 'done.json').unlink()  # interrupted in the evaluation after the last epoch
    code, _, err = command(*args)
    assert code == 0 and 'was interrupted after epoch 3' in err
    assert (results / 'done.json').exists() and (results / 'epoch_3.pth').stat().st_mtime_ns == stamp
    last = max(results.glob('2*_*'))
    assert any('accuracy' in path.read_text() for path in last.rglob('*.json'))


def test_a_weightless_start_and_a_target_that_is_reached(command, folder, trained):
    code, _, err = command('toy.py', trained, *PRUNE, '--fine-tune', '--fine-tune-epochs', '1')
    assert code == 0 and 'the target is 1' in err
    assert checkpoints(folder / 'out' / 'fine_tuned') == {'epoch_1.pth', 'latest.pth'}
    code, _, err = command('toy.py', trained, *PRUNE, '--fine-tune', '--fine-tune-epochs', '2')
    assert code == 2 and '--overwrite' in err  # another recipe for the same folder


def test_missing_training_data_are_told_before_the_pruning(command, folder):
    more = "train_dataloader = dict(dataset=dict(data_root='data', ann_file='gone.pkl'))"
    (folder / 'real.py').write_text(f"_base_ = ['toy.py']\n{more}\n")
    code, _, err = command('real.py', 'random', *PRUNE, '--fine-tune')
    assert code == 2
    assert 'data/gone.pkl: no such file; train_dataloader of config real.py' in err
    assert not (folder / 'out').exists()


def test_the_training_config(command, folder):
    write_toy_config('late.py', 'work', train_cfg={'by_epoch': True, 'max_epochs': 12, 'val_interval': 12})
    loader = Config.fromfile('late.py').train_dataloader.to_dict()
    (folder / 'busy.py').write_text(
        "_base_ = ['late.py']\ntrain_dataloader = dict(num_workers=4, persistent_workers=True)\nload_from = 'no.pth'\n"
    )
    assert command('busy.py', 'random', *PRUNE)[0] == 0

    def config(*args):
        options = parse(['busy.py', 'random', *PRUNE, '--fine-tune', '--fine-tune-epochs', '6', *args])
        return training_config(folder / 'out' / 'busy_slim.py', options)

    cfg = config('--seed', '7')
    assert cfg.train_cfg == {'by_epoch': True, 'max_epochs': 6, 'val_interval': 6}
    assert cfg.train_dataloader.num_workers == 4 and cfg.train_dataloader.persistent_workers
    assert cfg.train_dataloader.batch_size == loader['batch_size']
    assert cfg.randomness.seed == 7 and cfg.model.type == 'vadslim.SlimModel'
    assert cfg.default_hooks.checkpoint.type == 'vadslim.CheckpointHook'
    hooks = [hook['type'] for hook in cfg.custom_hooks]
    assert {'vadslim.FineTuneHook', 'vadslim.StructureHook', 'vadslim.RandomStateHook'} == set(hooks)
    assert cfg.param_scheduler[0].factor == 0.1 and config('--retrain').param_scheduler[0].factor == 0.5
    alone = config('--workers', '0').train_dataloader
    assert alone.num_workers == 0 and not alone.persistent_workers


def test_launcher_none_warns_and_works_alone(command, folder):
    code, _, err = command('toy.py', 'random', *PRUNE, '--gpus', '3', '--gpu-ids', '0', '1', '2', '--launcher', 'none')
    assert code == 0 and 'one process does the work, not 3' in err
