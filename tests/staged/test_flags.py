"""The command line of staged training."""

import pytest

from vadslim.cli import UserError
from vadslim.staged.flags import FLAGS, build_parser, option_of, overrides_of, parse_args


def test_every_option_in_both_spellings():
    values = {name: f'of {name}' for name in FLAGS}
    for sign in '_-':
        argv = [part for name, value in values.items() for part in (f'--{name.replace("_", sign)}', value)]
        options = parse_args(['--config', 'c.yaml', *argv])
        assert overrides_of(options) == {key: values[name] for name, key in FLAGS.items()}
    for all_stages in ('--run-all-stages', '--run_all_stages'):
        assert parse_args(['--config', 'c.yaml', all_stages]).run_all_stages


def test_what_is_not_given_overrides_nothing():
    options = parse_args(['c.yaml'])
    assert options.config == 'c.yaml' and options.stage is None and options.resume is None
    assert overrides_of(options) == {}


def test_set():
    options = parse_args(['c.yaml', '--set', 'training.lr=1e-3', 'a.b=c=d', '--set', 'stages.x.lr=', '--lr=1'][:6])
    assert overrides_of(options) == {'training.lr': '1e-3', 'a.b': 'c=d', 'stages.x.lr': ''}
    for argv in (['--set', 'seed=1', 'seed=2'], ['--lr', '1', '--set', 'training.lr=2']):
        with pytest.raises(UserError, match='is given twice'):
            overrides_of(parse_args(['c.yaml', *argv]))
    for text in ('training.lr', '=3', '.a=3', 'a..b=3', ''):
        with pytest.raises(UserError, match='write KEY=VALUE'):
            overrides_of(parse_args(['c.yaml', '--set', text]))


def test_resume():
    assert parse_args(['--resume', 'a/b.pth']).resume == 'a/b.pth'
    assert parse_args(['--config', 'c.yaml', '--resume']).resume == 'latest'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'a config is needed'),
        (['--resume'], 'a config is needed'),
        (['a.yaml', '--config', 'b.yaml'], 'given twice: a.yaml and --config b.yaml'),
        (['a.yaml', '--stage', 'x', '--run-all-stages'], 'not allowed with'),
        (['a.yaml', '--resume', 'x.pth', '--init_from', 'y.pth'], 'choose one'),
        (['--resume', 'x.pth', '--run-all-stages'], '--run-all-stages needs --config'),
        (['a.yaml', '--learning-rate', '3'], 'unrecognized arguments: --learning-rate'),
    ],
)
def test_what_does_not_go_together(argv, message):
    with pytest.raises(UserError, match=message):
        parse_args(argv)


def test_help_and_names():
    text = build_parser().format_help()
    assert all(f'--{name}' in text for name in FLAGS)
    assert option_of('training.lr') == '--lr' and option_of('data.img_size') == '--set data.img_size'
