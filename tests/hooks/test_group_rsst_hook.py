"""GroupRSSTHook: planned units are zero when the training ends, and what is left is what was evaluated."""

import copy
import itertools
import json
import math
import signal
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

import vadslim.hooks.group_rsst_hook as module
from processes import Forked
from vadslim import cli, evaluate, train
from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError
from vadslim.hooks import SlimModel
from vadslim.pruning import PatternError, Structure, StructuredPruner, find_groups, mask
from vadslim.slimming import cli as slimming
from vadslim.sparse import SparseError
from vadslim.testing import toy_config, toy_frames, toy_runner, write_toy_config

NAMES = itertools.count()
TOY = {'type': 'vadslim.ToyNet'}


def config_of(folder, hook=(), **changes):
    config = toy_config(folder, **{'epochs': 4, **changes})
    hook = {'type': 'vadslim.GroupRSSTHook', 'ratio': 0.3, 'interval': 1, **dict(hook)}
    return {**config, 'custom_hooks': [*config['custom_hooks'], hook]}


def runner_of(folder, hook=(), **changes):
    return toy_runner(config_of(folder, hook, **changes))


def hook_of(runner):
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, module.GroupRSSTHook)]
    return hook


class Scores(Hook):
    """What the network said of the validation data, which network it was; how much LayerNorm heeds what leaves."""

    def __init__(self):
        self.scores, self.widths, self.left = [], set(), []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.left.append(getattr(runner.model.norm, 'left', None))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.scores += [sample['scores'] for sample in outputs]
        self.widths.add(runner.model.ffn[0].out_features)


def trained(folder, hook=(), **changes):
    """(runner, what it said in its last validation) after a training."""
    runner, scores = runner_of(folder, hook, **changes), Scores()
    runner.register_hook(scores)
    runner.train()
    return runner, scores


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        folder = tmp_path_factory.mktemp('rsst')
        return folder, *trained(folder)


def test_penalised_weights_are_zero_and_the_slim_network_is_what_was_evaluated(done):
    folder, runner, scores = done
    hook, content = hook_of(runner), load_checkpoint(folder / 'slim.pth')
    assert hook.step.groups and 'sparse' not in content
    masks = load_checkpoint(folder / 'epoch_4.pth')['sparse']
    dense = load_checkpoint(folder / 'epoch_4.pth')['state_dict']
    gone = {name: ~kept for name, kept in masks['refill'].items()}
    assert sum(int(mask.sum()) for mask in gone.values()) > 1000
    for name, mask_ in gone.items():
        assert bool((dense[name][mask_] == 0).all()) and bool(dense[name][~mask_].any()), name

    slim = SlimModel(TOY, folder / 'structure.json').eval()
    slim.load_state_dict(content['state_dict'])
    assert content['meta']['structure'] == json.loads((folder / 'structure.json').read_text())
    assert content['meta']['epoch'] == 4
    assert scores.widths == {slim.ffn[0].out_features} == {23}  # 0.3 of 32 neurons: 9
    data = torch.stack([runner.val_dataloader.dataset[number]['inputs'] for number in range(16)])
    torch.testing.assert_close(slim(data).softmax(1), torch.stack(scores.scores), rtol=1e-4, atol=1e-6)

    model = runner.model.eval()  # dense still: masking it changes nothing but the statistics of the LayerNorm
    groups = find_groups(model, toy_frames())
    twin = mask(model, groups, {name: group['kept'] for name, group in hook.step.groups.items()})
    torch.testing.assert_close(slim(data), twin(data), rtol=1e-4, atol=1e-5)
    assert type(model.norm) is torch.nn.LayerNorm


def test_the_moments_of_the_kept_weights_come_along(done):
    folder, _, _ = done
    content = load_checkpoint(folder / 'slim.pth')
    shapes = [moments['exp_avg'].shape for moments in content['optimizer']['state'].values()]
    names = [name for name, _ in SlimModel(TOY, folder / 'structure.json').named_parameters()]
    assert sorted(map(tuple, shapes)) == sorted(tuple(content['state_dict'][name].shape) for name in names)


def test_kept_weights_are_far_above_penalised_ones_before_these_are_set_to_zero(done):
    _, runner, _ = done
    ratios = runner.message_hub.get_scalar('train/reg_ratio')._log_history
    assert ratios[0] < 2 and ratios[-1] > module.FAR_ENOUGH
    rates = runner.message_hub.get_scalar('train/reg_rate')._log_history
    assert list(rates) == sorted(rates) and 0 < rates[0] < 0.01 and rates[-1] == 1
    assert len(ratios) == 12  # three quarters of 16


def test_layer_norms_fade_with_the_weights(done):
    folder, runner, scores = done
    assert 'norm.weight' in hook_of(runner).cases.penalised
    assert 0.99 < scores.left[0] < 1 and scores.left == sorted(scores.left, reverse=True)
    assert len(scores.left) == 16 and scores.left[12:] == [0.0] * 4
    left = [load_checkpoint(folder / f'epoch_{epoch}.pth')['sparse']['left'] for epoch in (1, 2, 3, 4)]
    assert left == scores.left[3::4]


@pytest.mark.parametrize('epoch', [1, 3])
def test_resumed_equals_uninterrupted(done, tmp_path, monkeypatch, epoch):
    """In the middle of the growth, and in the hold: the plan, lambda and all weights are the checkpoint's."""
    folder, runner, _ = done
    monkeypatch.setattr(module, 'find_groups', lambda *_: pytest.fail('it planned anew'))
    start = {'load_from': str(folder / f'epoch_{epoch}.pth'), 'resume': True}
    resumed, _ = trained(tmp_path, **start)
    state = resumed.model.state_dict()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    mine, theirs = (load_checkpoint(path / 'slim.pth')['state_dict'] for path in (tmp_path, folder))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_killed_and_resumed_by_the_command(done, tmp_path):
    """kill -9 amid the third epoch, in the middle of the growth."""
    folder, _, _ = done
    Config(config_of(tmp_path / 'work')).dump(tmp_path / 'toy.py')

    def waits_in_the_third_epoch():
        step = module.GroupRSSTHook.before_train_iter

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 9:
                (tmp_path / 'here').touch()
                time.sleep(600)
            step(self, runner, batch_idx, data_batch)

        module.GroupRSSTHook.before_train_iter = before_train_iter

    process = Forked(lambda argv: cli.run(train.main, argv), [tmp_path / 'toy.py'], before=waits_in_the_third_epoch)
    while not (tmp_path / 'here').exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert (tmp_path / 'work' / 'epoch_2.pth').exists() and not (tmp_path / 'work' / 'slim.pth').exists()
    assert run(train.main, tmp_path / 'toy.py', '--resume') == 0
    mine, theirs = (load_checkpoint(path / 'slim.pth')['state_dict'] for path in (tmp_path / 'work', folder))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_another_plan_is_not_resumed(done, tmp_path):
    start = {'load_from': str(done[0] / 'epoch_1.pth'), 'resume': True}
    with pytest.raises(UserError, match=r'ratio is 0.5, the training to resume began with 0.3'):
        runner_of(tmp_path, {'ratio': 0.5}, **start).train()


def test_a_rerun_after_the_last_epoch_writes_the_slim_network(done, tmp_path):
    start = {'load_from': str(done[0] / 'epoch_4.pth'), 'resume': True}
    trained(tmp_path, **start)
    mine, theirs = (load_checkpoint(path / 'slim.pth')['state_dict'] for path in (tmp_path, done[0]))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize('kind, lr', [('AdamW', 1e-4), ('AdamW', 1e-6), ('SGD', 1e-6)])
def test_how_fast_units_fade_is_not_a_matter_of_the_learning_rate(tmp_path, kind, lr):
    """exp(-strength / 4) under x^3, in each parameter group (conv1 has a tenth of the rate), the loss unheard."""
    wrapper = toy_config(tmp_path)['optim_wrapper']
    wrapper['optimizer'] = {'type': kind, 'lr': lr, 'weight_decay': 0.0}
    hook = {'strength': 4.0, 'hold': 0.0, 'block_loss_grad': True}
    runner = runner_of(tmp_path, hook, optim_wrapper=wrapper, val_cfg=None, val_dataloader=None, val_evaluator=None)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    after = {}

    class Keep(Hook):
        priority = 'VERY_HIGH'

        def after_train(self, runner):
            after.update({name: p.detach().clone() for name, p in runner.model.named_parameters()})

    runner.register_hook(Keep())
    runner.train()
    rates = [4 / 16 * ((step + 1) / 16) ** 3 for step in range(16)]
    left = math.prod(1 - rate for rate in rates)
    assert left == pytest.approx(math.exp(-1), abs=0.1)
    for name in ('conv1.weight', 'ffn.0.weight', 'ffn.3.weight'):
        gone = ~load_checkpoint(tmp_path / 'epoch_4.pth')['sparse']['refill'][name]
        torch.testing.assert_close(after[name][gone], left * before[name][gone], rtol=1e-3, atol=3e-4)
        assert not runner.model.get_parameter(name)[gone].any()  # cut in the end


def test_too_weak_a_penalty_is_told(tmp_path, caplog):
    runner = runner_of(tmp_path, {'strength': 1.0}, epochs=1)
    lines = []
    runner.logger.warning = lines.append
    runner.train()
    assert any('not near zero yet: raise strength (1)' in line for line in lines)


def test_a_slim_network_gets_slimmer(done, tmp_path):
    folder, _, _ = done
    model = {'type': 'vadslim.SlimModel', 'architecture': TOY, 'structure': str(folder / 'structure.json')}
    runner, _ = trained(tmp_path, {'targets': 'ffn*'}, epochs=2, model=model, load_from=str(folder / 'slim.pth'))
    again = SlimModel(TOY, tmp_path / 'slim.pth')
    again.load_state_dict(load_checkpoint(tmp_path / 'slim.pth')['state_dict'])
    assert again.ffn[0].out_features == 23 - 6 and again.conv1.out_channels == runner.model.conv1.out_channels < 8
    first, second = (Structure.load(path / 'structure.json') for path in (folder, tmp_path))
    assert first.architecture_sha256 == second.architecture_sha256


def run(main, *argv):
    return cli.run(main, [*map(str, argv), '--cfg-options', f'experiment_name=rsst_{next(NAMES)}'])


def test_the_commands_take_the_slim_checkpoint(done, tmp_path, capsys):
    """With the dense config, and with the one of the RSST training."""
    folder, runner, _ = done
    config = write_toy_config(tmp_path / 'config.py', tmp_path / 'work', epochs=1)
    runner.cfg.dump(tmp_path / 'rsst.py')
    for file in (config, tmp_path / 'rsst.py'):
        assert run(evaluate.main, file, folder / 'slim.pth', '--out', tmp_path / 'metrics.json') == 0
        last = runner.message_hub.get_scalar('val/toy/accuracy').current()
        assert json.loads((tmp_path / 'metrics.json').read_text())['toy/accuracy'] == last
    assert run(train.main, config, '--load-from', folder / 'slim.pth') == 0
    tuned = load_checkpoint(tmp_path / 'work' / 'epoch_1.pth')
    assert tuned['meta']['structure'] == load_checkpoint(folder / 'slim.pth')['meta']['structure']


@pytest.mark.parametrize(
    'settings, said',
    [
        ({'ratio': 1.0}, 'ratio is 1.0; it is the fraction to remove'),
        ({'ratio': None}, 'ratio is missing'),
        ({'importance': 'L3'}, "importance 'L3' is not known; there are"),
        ({'importance': 'Taylor'}, "importance 'Taylor' looks at data"),
        ({'schedule': 'y'}, "schedule 'y' is not known; there are x, x"),
        ({'strength': -1.0}, 'strength is -1.0'),
        ({'hold': 1.0}, 'hold is 1.0: a part of the run'),
        ({'interval': 0}, 'interval is 0: a whole number'),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises((UserError, ValueError), match=said) as caught:
        module.GroupRSSTHook(**{'ratio': 0.3, **settings})
    assert cli.is_user_error(caught.value) and '\n' not in str(caught.value)


def test_a_plan_that_removes_nothing_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match='ratio 0.001 removes none'):
        runner_of(tmp_path, {'ratio': 0.001}).train()
    with pytest.raises(PatternError, match="'conv9' matches none of"):
        runner_of(tmp_path, {'targets': 'conv9'}).train()


def test_weights_that_nobody_steps_cannot_be_driven(tmp_path):
    wrapper = {**toy_config(tmp_path)['optim_wrapper'], 'constructor': 'OnlyTheClassifier'}

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
    class OnlyTheClassifier(DefaultOptimWrapperConstructor):
        def __call__(self, model):
            return super().__call__(model.classifier)

    with pytest.raises(SparseError, match='no optimizer steps ffn'):
        runner_of(tmp_path, {'targets': 'ffn*'}, optim_wrapper=wrapper).train()


def test_the_pruning_command_trains_the_slim_network_on(done, tmp_path):
    """Its fine-tuning resumes at the epoch of the RSST training, with the moments."""
    config = write_toy_config(tmp_path / 'config.py', tmp_path / 'work')
    argv = [config, done[0] / 'slim.pth', '--pruning-ratio', 0, '--latency', 0, '--output-dir', tmp_path / 'out']
    assert run(slimming.main, *argv, '--fine-tune', '--fine-tune-epochs', 5) == 0
    tuned = load_checkpoint(tmp_path / 'out' / 'fine_tuned' / 'epoch_5.pth')
    assert tuned['fine_tune']['start_epoch'] == 4
    assert (
        tuned['meta']['structure']['tensors'] == load_checkpoint(done[0] / 'slim.pth')['meta']['structure']['tensors']
    )


def test_the_plan_is_the_pruning_commands(done):
    """The same units as StructuredPruner on the weights that the training began with."""
    folder, runner, _ = done
    before, seen = runner_of(folder / 'again'), {}

    before.train_loop.run = lambda: seen.update(model=copy.deepcopy(before.model).eval())
    before.train()
    groups = find_groups(seen['model'], toy_frames())
    kept = StructuredPruner(0.3).plan(seen['model'], groups)
    for name, group in hook_of(runner).step.groups.items():
        assert group['kept'] == kept[name] and len(kept[name]) < group['num_units']
