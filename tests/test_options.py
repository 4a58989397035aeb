"""--cfg-options: what is taken, what is refused, and where variables of a config file go."""

import pytest

from vadslim.cli import UserError
from vadslim.options import load_config, merge_options, merge_texts
from vadslim.testing import write_toy_config

VARIABLES = """
_base_ = 'toy.py'
data_root = 'data/'
queue_length = 3
train_dataloader = dict(dataset=dict(_delete_=True, type='vadslim.ToyFrames', data_root=data_root, size=queue_length))
val_dataloader = dict(dataset=dict(pipeline=[dict(data_root=data_root)]))
test_dataloader = dict(dataset=dict(data_root='elsewhere/'))
"""


@pytest.fixture
def toy(tmp_path):
    return write_toy_config(tmp_path / 'toy.py', tmp_path / 'run')


def test_options_that_exist_are_taken(toy):
    cfg = load_config(toy)
    texts = {
        'model.hidden': '8',  # an argument of ToyNet that the config does not name
        'optim_wrapper.optimizer.betas': '(0.5,0.9)',  # of AdamW
        'optim_wrapper.paramwise_cfg.custom_keys.ffn.lr_mult': '0.5',
        'train_cfg.val_begin': '2',
        'find_unused_parameters': 'True',
        'custom_hooks.0.type': 'vadslim.RandomStateHook',
        'default_hooks.checkpoint.max_keep_ckpts': '1',
        'load_from': 'None',
        'visualizer': "{'type': 'Visualizer', 'name': 'x'}",  # None in the config
    }
    merge_texts(cfg, [f'{key}={text}' for key, text in texts.items()])
    assert cfg.model.hidden == 8 and cfg.visualizer == {'type': 'Visualizer', 'name': 'x'}
    assert cfg.optim_wrapper.optimizer.betas == (0.5, 0.9)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys == {'conv1': {'lr_mult': 0.1}, 'ffn': {'lr_mult': 0.5}}
    assert cfg.find_unused_parameters is True
    assert cfg.custom_hooks[0].type == 'vadslim.RandomStateHook'
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 1
    assert cfg.load_from is None


@pytest.mark.parametrize(
    'text',
    [
        'model',
        '=3',
        'model.hidden=[[1]',
        'model.hiden=3',
        'train_cfg.max_epochs.x=3',
        'model=[dict(a=1,b=2)]',
        'model={1',
    ],
)
def test_what_is_no_option_is_refused(toy, text):
    cfg = load_config(toy)
    before = cfg.to_dict()
    with pytest.raises(UserError, match='--cfg-options'):
        merge_texts(cfg, [text])
    assert cfg.to_dict() == before


def test_data_root_goes_where_the_config_put_it(toy, capsys):
    (toy.parent / 'real.py').write_text(VARIABLES)
    cfg = load_config(toy.parent / 'real.py')
    merge_options(cfg, {'data_root': '/mnt/nuscenes'})
    assert cfg.data_root == cfg.train_dataloader.dataset.data_root == '/mnt/nuscenes'
    assert cfg.val_dataloader.dataset.pipeline[0].data_root == '/mnt/nuscenes'
    assert cfg.test_dataloader.dataset.data_root == 'elsewhere/'
    assert capsys.readouterr().err == ''


def test_other_variables_have_no_effect_and_a_line_says_so(toy, capsys):
    (toy.parent / 'real.py').write_text(VARIABLES)
    for _ in range(2):
        cfg = load_config(toy.parent / 'real.py')
        merge_options(cfg, {'queue_length': 5})
        assert cfg.train_dataloader.dataset['size'] == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('note: --cfg-options queue_length has no effect')
