"""The old flags of train_structural.py and train_dense.py, as settings of a stage."""

import pytest
import torch

from vadslim.checkpoint import save_checkpoint
from vadslim.checkpoint_format import label
from vadslim.staged import doors
from vadslim.staged.doors import DOORS, build_parser, find_structural, to_argv
from vadslim.staged.flags import overrides_of, parse_args
from vadslim.staged.settings import resolve

FLAGS = {
    'structural': '--epochs 3 --lr 1e-2 --batch-size 8 --epoch-length 40 --embed-dim 64 --num-layers 2 '
    '--mask-ratio 0.5 --mask-strategy random --device cpu --num-workers 0 --save-dir out --log-dir curves',
    'dense': '--lr 1e-2 --batch_size 8 --epochs 3 --epoch_length 40 --stage 4 --save_dir out --freeze_encoder '
    '--vis_interval 7 --num_workers 0 --rust_threads 9 --embed_dim 64 --num_layers 2 --log_dir curves',
}


def translate(name, text, ours=False):
    """The only stage that a command line runs, and its notes."""
    argv, notes = to_argv(DOORS[name], build_parser(DOORS[name]).parse_args(text.split()), ours)
    options = parse_args(argv)
    plan = resolve(options.config, overrides_of(options))
    (stage,) = plan.select(options.stage)
    return stage, notes


def flat(settings):
    training, model, data = settings['training'], settings['model'], settings['data']
    keys = ('epochs', 'lr', 'batch_size', 'epoch_length', 'scheduler')
    return (*(training[key] for key in keys), model['embed_dim'], model['num_layers'], data['num_workers'])


def test_old_defaults_of_structural():
    stage, notes = translate('structural', '--from-scratch')
    assert flat(stage.settings) == (50, 1e-3, 64, 10000, 'cosine', 128, 4, 4) and notes == []
    training = stage.settings['training']
    assert (training['mask_ratio'], training['mask_strategy'], training['curriculum']['enabled']) == (
        0.6,
        'block',
        False,
    )
    assert not stage.settings['model']['full_heads'] and stage.init_from == 'random'
    assert str(stage.folder) == 'checkpoints/structural' and stage.settings['logging']['tensorboard_dir'] == 'runs'
    assert stage.device is None


def test_old_defaults_of_dense():
    stage, notes = translate('dense', '')
    assert flat(stage.settings) == (10, 1e-3, 32, 10000, 'constant', 128, 4, 4) and notes == []
    assert not stage.settings['training']['curriculum']['enabled'] and stage.settings['data']['curriculum_stage'] == 2
    assert stage.settings['model']['full_heads'] and not stage.settings['model']['freeze_encoder']
    assert str(stage.folder) == 'checkpoints_dense/dense' and stage.init_from == 'random'
    assert stage.device is None
    assert stage.settings['logging'] == {'log_interval': 10, 'vis_interval': 2, 'tensorboard_dir': 'runs'}


@pytest.mark.parametrize('old', ['-', '_'])
def test_all_flags_of_structural(old):
    text = ' '.join('--' + word[2:].replace('-', old) if '--' in word else word for word in FLAGS['structural'].split())
    stage, _ = translate('structural', f'--from{old}scratch {text}')
    assert flat(stage.settings) == (3, 1e-2, 8, 40, 'cosine', 64, 2, 0)
    assert (stage.settings['training']['mask_ratio'], stage.settings['training']['mask_strategy']) == (0.5, 'random')
    assert (stage.device, str(stage.folder)) == ('cpu', 'out/structural')
    assert stage.settings['logging']['tensorboard_dir'] == 'curves'


@pytest.mark.parametrize('old', ['-', '_'])
@pytest.mark.parametrize('start', ['--encoder_ckpt', '--init_from'])
def test_all_flags_of_dense(old, start):
    text = f'{start} x.pth {FLAGS["dense"]}'
    text = ' '.join('--' + word[2:].replace('_', old) if '--' in word else word for word in text.split())
    stage, notes = translate('dense', text)
    assert flat(stage.settings) == (3, 1e-2, 8, 40, 'constant', 64, 2, 0)
    assert stage.settings['data']['curriculum_stage'] == 4 and stage.settings['model']['freeze_encoder']
    assert stage.settings['logging']['vis_interval'] == 7
    assert (stage.init_from, stage.init_given, str(stage.folder)) == ('x.pth', True, 'out/dense')
    assert len(notes) == 1 and '--rust_threads has no effect' in notes[0]


def test_a_random_encoder_that_stays_so_is_told():
    assert 'random' in translate('dense', '--freeze_encoder')[1][0]


def test_the_settings_of_our_checkpoints_count():
    given = build_parser(DOORS['structural']).parse_args(['--resume', 'x.pth', '--epochs', '60'])
    assert to_argv(DOORS['structural'], given, ours=True)[0] == [
        *('--stage', 'structural', '--resume', 'x.pth', '--set', 'training.epochs=60')
    ]
    given = build_parser(DOORS['dense']).parse_args(['--resume', 'x.pth'])
    assert to_argv(DOORS['dense'], given, ours=True)[0] == ['--stage', 'dense', '--resume', 'x.pth']
    argv, _ = to_argv(DOORS['dense'], given)
    assert '--init_from' not in argv and 'training.epochs=10' in argv and argv[4:6] == ['--config', str(doors.CONFIG)]


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Command lines of train_stages.py that would have been run."""
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr('vadslim.staged.cli.main', lambda argv: commands.append(argv) or 0)
    return commands


def test_the_latest(started, tmp_path):
    (tmp_path / 'checkpoints' / 'structural').mkdir(parents=True)
    latest = tmp_path / 'checkpoints' / 'structural' / 'checkpoint_latest.pth'
    save_checkpoint({'state_dict': {'a': torch.ones(1)}, **label(3, stage='structural')}, latest)
    assert doors.structural(['--resume']) == 0
    assert started == [['--stage', 'structural', '--resume', 'checkpoints/structural/checkpoint_latest.pth']]


def test_an_old_checkpoint(started, tmp_path, monkeypatch):
    old = {'epoch': 4, 'model_state_dict': {'a': torch.ones(1)}, 'optimizer_state_dict': {}, 'loss': 0.5}
    save_checkpoint(old, tmp_path / 'structural_epoch5.pth')
    monkeypatch.setattr('vadslim.staged.cli.main', lambda argv: started.append(argv) or 3)
    assert doors.structural(['--resume', 'structural_epoch5.pth']) == 3
    assert 'training.epochs=50' in started[0] and '--config' in started[0]


@pytest.mark.parametrize(
    ('door', 'text', 'message'),
    [
        (doors.structural, '', 'one of the arguments --resume --from-scratch'),
        (doors.structural, '--from-scratch --resume', 'not allowed with argument --from-scratch'),
        (doors.structural, '--resume', '--resume: there is no checkpoints/structural/checkpoint_latest.pth'),
        (doors.structural, '--resume nothing.pth', 'nothing.pth'),
        (doors.structural, '--from-scratch --save-dir run', 'run/structural: holds a run already; --resume goes on'),
        (doors.structural, '--from-scratch --stage 2', 'unrecognized arguments: --stage 2'),
        (doors.dense, '--encoder_ckpt a --init_from b', 'not allowed with argument --encoder_ckpt'),
    ],
)
def test_errors(started, tmp_path, capsys, door, text, message):
    (tmp_path / 'run' / 'structural').mkdir(parents=True)
    (tmp_path / 'run' / 'structural' / 'step.json').touch()
    assert door(text.split()) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not started


def test_where_the_best_is_now(tmp_path):
    old = tmp_path / 'best_structural.pth'
    assert find_structural(str(old)) == str(old)
    (tmp_path / 'structural').mkdir()
    (tmp_path / 'structural' / 'checkpoint_best.pth').touch()
    assert find_structural(str(old)) == str(tmp_path / 'structural' / 'checkpoint_best.pth')
    for flag in ('--encoder_ckpt', '--init_from'):
        assert translate('dense', f'{flag} {old}')[0].init_from == str(tmp_path / 'structural' / 'checkpoint_best.pth')
    old.touch()
    assert find_structural(str(old)) == str(old)
