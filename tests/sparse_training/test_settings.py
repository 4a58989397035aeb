"""Flags and what a recipe may say: what they give, and the line that a mistake gets."""

import shlex

import pytest

from vadslim.cli import UserError
from vadslim.sparse_training.cli import main, run_name
from vadslim.sparse_training.settings import Settings, build_parser

ISSUE = (
    '--arch vit_tiny --dataset cifar100 --struct rsst --vit_structured --criteria magnitude --rate 0.3 '
    '--pruning_times 20 --epochs 80 --batch_size 128 --reg_granularity_prune 1.0 '
    '--RST_schedule exp_custom_exponents --exponents 4 --exp_name x'
)
#: all flags of RSST's public code, as it is called
OLD = (
    '--data d --dataset cifar10 --arch res20s --vit_pretrained --vit_pretrained_21k --file_name f --seed 1 '
    '--save_dir s --exp_name e --gpu 0 --resume --checkpoint c --init i --batch_size 128 --workers 4 --lr 0.01 '
    '--momentum 0.9 --weight_decay 1e-4 --epochs 120 --warmup 20 --print_freq 200 --decreasing_lr 91,136 '
    '--pruning_times 20 --rate 0.2 --prune_type rewind_lt --pretrained p --conv1 --fc --rewind_epoch 24 --struct rsst '
    '--fillback_rate 0.0 --block_loss_grad False --RST_schedule exp_custom_exponents --reg_granularity_prune 1 '
    '--criteria l1 --exponents 4 --vit_structured --vit_prune_target both --mlp_prune_ratio 0.3 '
    '--sorting_mode global --mamba_pretrained --mamba_structured --mamba_prune_target both --mamba_mlp_prune_ratio 0.3'
)


def settings(text):
    given = vars(build_parser().parse_args(shlex.split(text)))
    return Settings.of({name: given[name] for name in Settings.__dataclass_fields__ if name in given})


def test_defaults_are_those_of_the_public_code():
    found = settings('')
    assert found == Settings()
    assert (found.arch, found.dataset, found.struct, found.criteria) == ('res20s', 'cifar100', 'rsst', 'l1')
    assert (found.epochs, found.warmup_epochs, found.milestones, found.rewind_to) == (120, 20, [91, 136], 24)
    assert (found.lr, found.momentum, found.weight_decay, found.rate, found.pruning_times) == (0.01, 0.9, 1e-4, 0.2, 20)
    assert (found.RST_schedule, found.exponents, found.reg_granularity_prune) == ('exp_custom_exponents', 4, 1)


def test_the_command_of_the_old_documentation():
    found = settings(ISSUE)
    changed = {name: value for name, value in found.to_dict().items() if value != Settings().to_dict()[name]}
    assert changed == {
        'arch': 'vit_tiny',
        'vit_structured': True,
        'criteria': 'magnitude',
        'rate': 0.3,
        'epochs': 80,
        'batch_size': 128,
    }
    assert (found.warmup_epochs, found.milestones, found.rewind_to) == (13, [61, 91], 16)  # go with 80 of 120 epochs
    assert run_name(found) == (
        'rsst_vit_tiny_cifar100_sched_exp_custom_exponents_reg_1_exp4_crit_magnitude_rate_0.3_struct_head_seed_0'
    )


def test_every_old_flag():
    given = build_parser().parse_args(shlex.split(OLD))
    assert given.block_loss_grad is False  # the word was true
    assert given.decreasing_lr == [91, 136]
    assert (given.rewind_epoch, given.seed, given.mamba_prune_target) == (24, 1, 'both')
    dashes = build_parser().parse_args(shlex.split('--batch-size 3 --RST-schedule x --block-loss-grad'))
    assert (dashes.batch_size, dashes.RST_schedule, dashes.block_loss_grad) == (3, 'x', True)


def test_flags_count_more_than_the_recipe():
    recipe = {'rate': 0.3, 'lr': 0.5, 'epochs': 160, 'warmup': 16, 'decreasing_lr': [80, 120], 'rewind_epoch': 20}
    found = Settings.of(recipe, {'rate': 0.4, 'epochs': 16})
    assert (found.rate, found.lr) == (0.4, 0.5)
    assert (found.warmup_epochs, found.milestones, found.rewind_to) == (2, [8, 12], 2)
    found = Settings.of(recipe, {'epochs': 16, 'warmup': 16})
    assert (found.warmup_epochs, found.milestones) == (16, [8, 12])
    vit = {'struct': 'rsst', 'vit_structured': True}
    assert Settings.of(vit, {'struct': 'imp'}).vit_structured is False
    assert Settings.of(vit, {'struct': 'refill'}).vit_structured is True


@pytest.mark.parametrize(
    ('recipe', 'why'),
    [
        ({'rates': 0.2}, "'rates' is no setting; there are RST_schedule, accumulate"),
        ({'vit_structured': 'False'}, 'True or False is needed'),
        ({'rate': '0.2'}, "rate '0.2': a number"),
        ({'rate': True}, 'rate True: a number'),
        ({'epochs': 2.5}, 'epochs 2.5: a whole number'),
        ({'warmup': 'five'}, "warmup 'five': a whole number"),
        ({'decreasing_lr': 6}, 'decreasing_lr 6: a list of epochs'),
        ({'decreasing_lr': [1.5]}, 'a list of epochs'),
        ({'layer_rates': [0.5]}, 'a dict of patterns and factors'),
        ({'layer_rates': {'layer1.*': 'x'}, 'scope': 'layer-wise'}, 'a dict of patterns and factors'),
        ({'arch': 5}, 'arch 5: a text'),
        ({'epochs': None}, 'epochs None: a whole number'),
        ({'epochs': 0}, 'epochs 0: at least 1'),
        ({'struct': 'imp', 'vit_structured': True}, 'imp prunes elements'),
        ({'layer_rates': {'layer1.*': 0.5}}, 'add --scope layer-wise'),
        ({'prune_type': 'rewind_lt', 'epochs': 4, 'rewind_epoch': 4}, 'name one from 0 to 3'),
        ({'momentum': 1.0}, 'below 1'),
    ],
    ids=str,
)
def test_values_of_a_recipe(recipe, why):
    with pytest.raises(UserError) as caught:
        Settings.of({}, recipe) if recipe == {'struct': 'imp', 'vit_structured': True} else Settings.of(recipe, {})
    assert why in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('flags', 'why'),
    [
        ('--struct foo', "struct 'foo': choose from imp, refill, rsst"),
        ('--rate 2', 'rate 2.0: a fraction from 0 to 1'),
        ('--rate nan', 'rate nan: a fraction from 0 to 1'),
        ('--rate x', "argument --rate: invalid float value: 'x'"),
        ('--criteria foo', 'choose from remain, magnitude, l1, l2, saliency, hessian'),
        ('--prune_type foo', 'choose from lt, pt, pt_trans, rewind_lt'),
        ('--RST_schedule x^4', 'choose from x, x^2, x^3, exp, exp_custom, exp_custom_exponents'),
        ('--vit_prune_target foo', 'choose from head, mlp, both'),
        ('--sorting_mode foo', 'choose from layer-wise, global'),
        ('--decreasing_lr 5,3', 'no growing list of epochs such as 91,136'),
        ('--block_loss_grad maybe', 'maybe is neither True nor False'),
        ('--layer_rates 0.5', "is not PATTERN=FACTOR, such as 'layer1.*=0.5'"),
        ('--warmup -1', 'warmup -1: at least 0'),
        ('--epochs 0', 'epochs 0: at least 1'),
        ('--batch_size 0', '0 is not a whole number of at least 1'),
        ('--seed -1', 'seed -1: from 0'),
        ('--mamba_structured', '--mamba_structured: there is no Mamba network here'),
        ('--dataset cifar100_trigger', 'backdoor'),
        ('--vit_pretrained', 'nothing is downloaded; name the file'),
        ('--pretrained a --init b', 'one of them is needed'),
        ('--checkpoint a', 'is for --resume'),
        ('--gpu 0 --gpus 2', 'one GPU'),
        ('--gpu x', 'is not a whole number'),
        ('--nonsense', 'unrecognized arguments: --nonsense'),
    ],
)
def test_wrong_flags(flags, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert main(['--dataset', 'digits', *shlex.split(flags)]) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1 and why in said
    assert list(tmp_path.iterdir()) == []
