"""The curriculum with workers and after a resume, and both stages trained by real Runners."""

import json

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from vadslim.checkpoint import CheckpointError, load_checkpoint
from vadslim.cli import UserError
from vadslim.examples.ink import CurriculumHook, Strokes, sample, to_config
from vadslim.testing import toy_runner


def sections(folder, **training):
    """Of a staged config, with all keys."""
    return {
        'seed': 4,
        'model': {'embed_dim': 8, 'num_layers': 1, 'decoder_dim': 8, 'full_heads': False},
        'training': {
            'lr': 1e-3,
            'batch_size': 4,
            'epochs': 3,
            'epoch_length': 8,
            'weight_decay': 1e-4,
            'grad_clip': 1.0,
            'scheduler': 'onecycle',
            'total_steps': None,
            'save_dir': str(folder),
            'save_interval': 1,
            'keep_last_n': 3,
            'loss_weights': {'skeleton': 10.0, 'keypoints': 5.0, 'tangent': 1.0, 'width': 1.0, 'offset': 1.0},
            'curriculum': {'enabled': True, 'start_stage': 1, 'end_stage': 3, 'epochs_per_stage': 1},
            'mask_ratio': 0.6,
            'mask_strategy': 'block',
            **training,
        },
        'data': {'img_size': 64, 'num_workers': 0, 'rust_threads': 4, 'curriculum_stage': 2},
        'logging': {'log_interval': 1, 'vis_interval': 0, 'tensorboard_dir': None},
        'device': {'type': None},
    }


class Watch(Hook):
    """Note what comes out of the loader."""

    def __init__(self):
        self.seen, self.lr = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.lr.append(runner.optim_wrapper.get_lr()['lr'][0])
        for image, stage in zip(data_batch['inputs'], data_batch['stage']):
            self.seen.append((runner.epoch, int(stage), image))


def train(config, **changes):
    runner = toy_runner({**config, 'log_level': 'WARNING', **changes})
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


def assert_is_sample(image, seed, stage, indices):
    assert any((image.numpy() == sample(seed, stage, index)['image']).all() for index in indices)


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, True)])
def test_the_curriculum_reaches_workers(tmp_path, workers, persistent):
    config = to_config(sections(tmp_path), {'name': 'structural'})
    config['train_dataloader'].update(num_workers=workers, persistent_workers=persistent)
    config['custom_hooks'] = [hook for hook in config['custom_hooks'] if hook['type'] != 'vadslim.RandomStateHook']
    config |= {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None, 'default_hooks': {'checkpoint': None}}
    _, watch = train(config)
    assert [(epoch, stage) for epoch, stage, _ in watch.seen] == [(0, 1)] * 8 + [(1, 2)] * 8 + [(2, 3)] * 8
    for epoch, stage, image in watch.seen[::5]:
        assert_is_sample(image, 3 * 4, stage, range(8 * epoch, 8 * epoch + 8))
    assert len({image.numpy().tobytes() for _, _, image in watch.seen}) == 24


def test_resumed_is_uninterrupted(tmp_path):
    whole, watched = train(to_config(sections(tmp_path / 'whole', keep_last_n=None), {'name': 'structural'}))
    config = to_config(sections(tmp_path / 'half'), {'name': 'structural'})
    file = tmp_path / 'whole' / 'structural' / 'epoch_1.pth'
    resumed, rest = train(config, load_from=str(file), resume=True)
    assert [(epoch, stage) for epoch, stage, _ in rest.seen] == [(1, 2)] * 8 + [(2, 3)] * 8
    assert all(torch.equal(one[2], other[2]) for one, other in zip(watched.seen[8:], rest.seen))
    assert watched.lr[2:] == rest.lr
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.state_dict().items())
    assert max(watched.lr) < 1.01e-3 and watched.lr[-1] < 1e-7  # one cycle of 3 epochs of 2 iterations


def test_structural_then_dense(tmp_path):
    """Pictures, a best checkpoint by F1, heads that the first stage lacks; and what is not declared is refused."""
    data = sections(tmp_path, epochs=1, curriculum={'enabled': False})
    data['logging']['vis_interval'] = 2
    runner, watch = train(to_config(data, {'name': 'structural'}))
    assert {stage for _, stage, _ in watch.seen} == {2}
    folder = tmp_path / 'structural'
    assert [path.name for path in (folder / 'pictures').iterdir()] == ['epoch_1.png']
    (best,) = folder.glob('best_skeleton_f1*.pth')
    data['model']['full_heads'] = True
    config = to_config(data, {'name': 'dense', 'init_from': str(best)})
    assert json.loads(json.dumps(config)) == config
    dense, _ = train(config)
    assert list(dense.model.heads) == ['skeleton', 'keypoints', 'tangent', 'width', 'offset']
    assert (tmp_path / 'dense' / 'pictures' / 'epoch_1.png').stat().st_size > 10_000
    checkpoint = load_checkpoint(next((tmp_path / 'dense').glob('best*.pth')))
    assert 'decoder.skips.0.project.weight' in checkpoint['state_dict']
    assert runner.message_hub.get_scalar('val/skeleton/f1').current() >= 0
    data['model']['embed_dim'] = 16
    wider = to_config(data, {'name': 'wider', 'init_from': str(best)})
    with pytest.raises(CheckpointError, match=r'positions is \(64, 8\), the model has \(64, 16\)'):
        train(wider)


def test_stages_follow_from_the_epoch():
    hook = CurriculumHook(2, 4, 3)
    assert [hook.stage(epoch) for epoch in range(12)] == [2] * 3 + [3] * 3 + [4] * 6
    assert {CurriculumHook(5).stage(epoch) for epoch in range(20)} == {5}


def test_samples_do_not_depend_on_workers():
    batches = []
    for workers in (0, 2):
        strokes = Strokes(6, [0, 4], seed=1)
        strokes.start_epoch(7, [0, 4])
        batches.append(next(iter(DataLoader(strokes, 6, num_workers=workers))))
    assert torch.equal(batches[0]['inputs'], batches[1]['inputs'])
    assert batches[0]['stage'].tolist() == [0, 4, 0, 4, 0, 4]
    assert (batches[0]['targets']['offset'][5].numpy() == sample(1, 4, 7 * 6 + 5)['offset']).all()
    assert len(list(strokes)) == 6


def test_training_and_validation_have_no_sample_in_common(tmp_path):
    seeds = []
    for seed in range(4):
        config = to_config({**sections(tmp_path), 'seed': seed}, {'name': 'x'})
        seeds += [config[f'{name}_dataloader']['dataset']['seed'] for name in ('train', 'val', 'test')]
    assert len(set(seeds)) == 12
    assert config['val_dataloader']['dataset']['curriculum_stage'] == [1, 2, 3]


def test_settings_reach_the_config(tmp_path):
    data = sections(tmp_path, grad_clip=None, keep_last_n=None, scheduler='constant')
    config = to_config(data, {'name': 'structural'})
    assert config['model']['loss_weights'] == {'skeleton': 1, 'tangent': 1} and config['model']['mask_ratio'] == 0.6
    assert 'clip_grad' not in config['optim_wrapper'] and config['param_scheduler'] == []
    assert config['default_hooks']['checkpoint']['max_keep_ckpts'] == -1
    assert config['work_dir'] == str(tmp_path / 'structural')
    data['model']['full_heads'] = True
    config = to_config(data, {'name': 'dense'})
    assert config['model']['loss_weights']['skeleton'] == 10 and config['model']['mask_ratio'] == 0
    assert 'vadslim.InkPictureHook' not in {hook['type'] for hook in config['custom_hooks']}
    data['logging']['vis_interval'] = 5
    assert to_config(data, {'name': 'dense'})['custom_hooks'][-1] == {'type': 'vadslim.InkPictureHook', 'interval': 5}


def test_a_cycle_ends_with_the_training(tmp_path):
    """Also where the images fill no whole batches, and whoever loads them."""
    config = to_config(sections(tmp_path, epoch_length=10), {'name': 'structural'})
    config['train_dataloader']['num_workers'] = 2
    config |= {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None, 'default_hooks': {'checkpoint': None}}
    _, watch = train(config)
    assert len(watch.lr) == 3 * 3 and watch.lr[-1] < 1e-7 < watch.lr[-2]


def test_mixed_precision_scales_its_gradients(tmp_path, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    data, dense = sections(tmp_path), {'name': 'x', 'device': None}
    assert to_config(data, dense)['optim_wrapper']['type'] == 'OptimWrapper'  # of the structural stage
    data['model']['full_heads'] = True
    wrapper = to_config(data, dense)['optim_wrapper']
    assert (wrapper['type'], wrapper['loss_scale']) == ('AmpOptimWrapper', 'dynamic')
    assert to_config(data, {**dense, 'device': 'cpu'})['optim_wrapper']['type'] == 'OptimWrapper'


def test_total_steps(tmp_path):
    data = sections(tmp_path, total_steps=6)
    assert to_config(data, {'name': 'x'})['param_scheduler'][0]['total_steps'] == 6
    data['training']['total_steps'] = 5
    with pytest.raises(UserError, match='has 6 steps'):
        to_config(data, {'name': 'x'})
    data['training'] |= {'total_steps': 9, 'scheduler': 'cosine'}
    assert to_config(data, {'name': 'x'})['param_scheduler'][0]['T_max'] == 9


def test_refused(tmp_path):
    data = sections(tmp_path)
    data['data']['img_size'] = 128
    with pytest.raises(UserError, match='64 x 64'):
        to_config(data, {'name': 'x'})
    for make, message in (
        (lambda: Strokes(0), 'epoch_length 0'),
        (lambda: Strokes(curriculum_stage=10), '0 to 9'),
        (lambda: Strokes(curriculum_stage=[]), 'at least one'),
        (lambda: Strokes(seed=-1), 'seed -1'),
        (lambda: CurriculumHook(3, 2), 'before start_stage'),
        (lambda: CurriculumHook(0, 12), 'end_stage 12'),
        (lambda: CurriculumHook(0, 2, 0), 'epochs_per_stage 0'),
    ):
        with pytest.raises(UserError, match=message):
            make()
