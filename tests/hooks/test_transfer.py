"""What goes over to another network is told, and only what was declared is left behind."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vadslim.checkpoint import CheckpointError, load_checkpoint
from vadslim.hooks import StructureHook, compare_architecture
from vadslim.hooks.transfer import places
from vadslim.testing import toy_config, toy_runner


def net(**heads):
    return nn.ModuleDict(
        {'body': nn.Linear(2, 3), 'heads': nn.ModuleDict({k: nn.Linear(3, n) for k, n in heads.items()})}
    )


def test_names_by_what_becomes_of_them():
    state = {f'module.{name}': value for name, value in net(skeleton=1, old=2).state_dict().items()}
    found = compare_architecture({**state, 'note': 'text'}, net(skeleton=2, width=1))
    assert found.loaded == ['body.weight', 'body.bias']
    assert found.new == ['heads.width.weight', 'heads.width.bias']
    assert found.dropped == ['heads.old.weight', 'heads.old.bias']
    assert found.reshaped == {'heads.skeleton.weight': ((1, 3), (2, 3)), 'heads.skeleton.bias': ((1,), (2,))}
    assert str(found) == (
        '2 tensors loaded, 2 new (heads.width), 2 dropped (heads.old), 2 of another shape, new (heads.skeleton)'
    )
    found.check(allow_new=['heads.*'], allow_dropped=['heads.*'])
    with pytest.raises(CheckpointError, match=r'^a.pth is not .*: heads.skeleton.weight is \(1, 3\), the model has'):
        found.check('a.pth', allow_new=['*'], allow_dropped=['*old*'])
    with pytest.raises(CheckpointError, match=r'network: heads.width.weight is missing; heads.width.bias is missing$'):
        found.check(allow_new=['*skeleton*'], allow_dropped=['*'])


def test_the_first_ten_are_named():
    found = compare_architecture({}, nn.Sequential(*(nn.Linear(1, 1) for _ in range(6))))
    with pytest.raises(CheckpointError) as error:
        found.check()
    assert str(error.value).count('is missing') == 10 and str(error.value).endswith('4.bias is missing and 2 more')


def test_places():
    assert places(['a.b.w', 'a.c.w']) == 'a.b, a.c'
    assert places(['a.b.w', 'd.w']) == 'a, d'
    assert places(['w']) == 'w'
    assert places([f'a{n}.w' for n in range(5)]) == 'a0, a1, a2 and 2 more'


def test_a_stage_starts_from_another_network(tmp_path):
    """A head of another size, a part that is new and one that is gone, through MMEngine's own loading."""
    toy_runner(toy_config(tmp_path / 'a', epochs=1, size=8)).train()
    file = tmp_path / 'a' / 'epoch_1.pth'
    config = toy_config(tmp_path / 'b', epochs=1, size=8, model={'type': 'vadslim.ToyNet', 'hidden': 8})
    with pytest.raises(CheckpointError, match='ffn.0.weight is'):
        toy_runner({**config, 'load_from': str(file)}).load_or_resume()
    declared = {'type': 'vadslim.StructureHook', 'allow_missing': ['ffn.*'], 'allow_unexpected': ['ffn.*']}
    config['custom_hooks'] = [declared]
    runner = toy_runner({**config, 'load_from': str(file)})
    before = runner.model.ffn[0].weight.detach().clone()
    runner.load_or_resume()
    assert torch.equal(runner.model.conv1.weight.detach(), load_checkpoint(file)['state_dict']['conv1.weight'])
    assert torch.equal(runner.model.ffn[0].weight.detach(), before)
    state = load_checkpoint(file)
    lines = []
    runner = SimpleNamespace(model=runner.model, logger=SimpleNamespace(info=lines.append), _load_from='a.pth')
    StructureHook(['ffn.*'], ['ffn.*']).after_load_checkpoint(runner, state)
    assert lines == ['a.pth: 22 tensors loaded, 3 of another shape, new (ffn.0, ffn.3)']
    assert 'ffn.0.weight' not in state['state_dict']
