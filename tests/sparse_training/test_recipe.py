"""From recipes and flags to the config that all levels share."""

import ast
import functools
import textwrap

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, PARAM_SCHEDULERS
from torch import nn

from sparse_toys import write_recipe
from vadslim.cli import UserError
from vadslim.registry import MODELS
from vadslim.sparse_training import recipe as recipes
from vadslim.sparse_training.pruning import check, prunable
from vadslim.sparse_training.recipe import ARCHS, load_recipe
from vadslim.sparse_training.settings import Settings

FOLDER = recipes.PIECES.parents[1] / 'sparse'
RECIPES = sorted(path.name for path in FOLDER.glob('*.py') if 'sparse = dict' in path.read_text())


@functools.cache
def network(text):
    """One for the recipes of all methods: that of a large network takes seconds."""
    return MODELS.build(ast.literal_eval(text))


class Images:
    """As many as CIFAR-10 has, of nothing."""

    def __init__(self, count=45000):
        self.count = count

    def __len__(self):
        return self.count


@pytest.fixture
def no_data(monkeypatch):
    """Data sets that are not here are as long as they should be."""
    build = DATASETS.build
    monkeypatch.setattr(DATASETS, 'build', lambda cfg: build(cfg) if 'Digits' in str(cfg['type']) else Images())


@pytest.mark.parametrize('name', RECIPES)
def test_each_recipe(name, no_data):
    cfg, settings = load_recipe(str(FOLDER / name), {}, [])
    method = name.split('_')[0]
    if method in ('imp', 'refill', 'rsst'):
        assert settings.struct == method
    model = network(str(cfg.model.to_dict()))
    check(model, settings, cfg.optim_wrapper.optimizer)
    weights = prunable(model, settings)
    assert sum(weight.numel() for weight in weights.values()) > 0.3 * sum(p.numel() for p in model.parameters())
    assert ('vit' in name) == settings.arch.startswith('vit') == (settings.optimizer == 'adamw')
    loaders = [cfg[f'{split}_dataloader'].dataset for split in ('train', 'val', 'test')]
    assert [loader.split for loader in loaders] == ['train', 'val', 'test']
    assert model.fc.out_features == 10 if hasattr(model, 'fc') else True


def test_there_are_all_recipes():
    networks = ['resnet20', 'resnet32', 'resnet56', 'resnet18', 'resnet50', 'vgg16_bn', 'vgg_small', 'mobilenet']
    names = {
        f'{method}_{net}.py' for method in ('imp', 'refill', 'rsst') for net in [*networks, 'vit_tiny', 'vit_small']
    }
    assert names <= set(RECIPES)


def rates(cfg, epochs, steps):
    """The learning rate of each step, by MMEngine's own schedulers."""
    wrapper = build_optim_wrapper(nn.Linear(1, 1), cfg.optim_wrapper)
    schedulers = [PARAM_SCHEDULERS.build({**one, 'optimizer': wrapper}) for one in cfg.param_scheduler]
    found = []
    for step in range(1, epochs * steps + 1):
        found.append(wrapper.optimizer.param_groups[0]['lr'])
        wrapper.optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % steps == 0:
                scheduler.step()
    return found


@pytest.mark.parametrize(('epochs', 'warmup', 'milestones'), [(6, 2, [3, 5]), (3, 0, [2]), (2, 1, []), (4, 4, [])])
def test_schedule_of_the_public_code(epochs, warmup, milestones, tmp_path):
    """lr (epoch S + step) / (warmup S), step from 1, then a tenth after each milestone."""
    path = write_recipe(tmp_path / 'toy.py', lr=0.3, epochs=epochs, warmup=warmup, decreasing_lr=milestones)
    cfg, _ = load_recipe(str(path), {}, [])
    expected = []
    for epoch in range(epochs):
        for step in range(1, 11):
            rise = (epoch * 10 + step) / (warmup * 10) if epoch < warmup else 1
            expected.append(0.3 * rise * 0.1 ** sum(epoch >= milestone for milestone in milestones))
    assert rates(cfg, epochs, 10) == pytest.approx(expected, rel=1e-9)


def test_schedule_of_one_step_and_of_one_epoch(tmp_path):
    path = write_recipe(tmp_path / 'toy.py', lr=0.3, epochs=160, warmup=1, decreasing_lr=[80, 120])
    cfg, _ = load_recipe(str(path), {'epochs': 1, 'warmup': 1, 'batch_size': 2000}, [])
    assert rates(cfg, 1, 1) == [0.3]  # no milestone at epoch 0


def test_each_process_has_its_own_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, 'get_world_size', lambda: 3)
    cfg, _ = load_recipe(str(write_recipe(tmp_path / 'toy.py')), {}, [])
    assert cfg.param_scheduler[0].end == 4  # 334 images, 100 at a time


def test_flags_over_a_recipe(tmp_path):
    path = str(write_recipe(tmp_path / 'toy.py'))
    flags = {'batch_size': 20, 'workers': 2, 'optimizer': 'adamw', 'accumulate': 4, 'seed': 5, 'print_freq': 3}
    cfg, settings = load_recipe(path, {**flags, 'backends': ['local', 'tensorboard']}, [])
    assert cfg.train_dataloader.batch_size == 20 and cfg.test_dataloader.batch_size == 100
    assert {cfg[f'{split}_dataloader'].num_workers for split in ('train', 'val', 'test')} == {2}
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, cfg.optim_wrapper.accumulative_counts) == ('AdamW', 0.05, 4)
    assert (cfg.randomness.seed, cfg.default_hooks.logger.interval, settings.seed) == (5, 3, 5)
    assert [one.type for one in cfg.visualizer.vis_backends] == ['LocalVisBackend', 'TensorboardVisBackend']


def test_a_recipe_keeps_its_own_optimizer(tmp_path):
    text = (
        "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.7, nesterov=True, momentum=0.5))\n"
    )
    path = write_recipe(tmp_path / 'toy.py', text)
    path.write_text(path.read_text().replace("'lr': 0.05, ", ''))
    assert load_recipe(str(path), {}, [])[0].optim_wrapper.optimizer.nesterov
    assert load_recipe(str(path), {'lr': 0.1}, [])[0].optim_wrapper.optimizer.lr == 0.1


def test_cfg_options(tmp_path):
    path = str(write_recipe(tmp_path / 'toy.py'))
    options = ['model.depth=14', 'optim_wrapper.clip_grad.max_norm=1', 'optim_wrapper.optimizer.nesterov=True']
    cfg, _ = load_recipe(path, {}, options)
    assert cfg.model.depth == 14
    assert cfg.optim_wrapper.clip_grad == {'max_norm': 1} and cfg.optim_wrapper.optimizer.nesterov
    for text, why in (
        ('model.dept=14', 'the nearest key is model.depth'),
        ('randomness.seed=3', 'use --seed'),
        ('train_cfg.max_epochs=3', 'use --epochs'),
        ('work_dir=x', 'use --save_dir'),
        ('train_dataloader.batch_size=0', 'a whole number of at least 1'),
    ):
        with pytest.raises(UserError, match=why):
            load_recipe(path, {}, [text])


def test_other_data_bring_their_own_preprocessing(no_data):
    """CIFAR's images are mirrored, digits must not be."""
    path = str(FOLDER / 'rsst_resnet20.py')
    assert load_recipe(path, {}, [])[0].model.data_preprocessor.flip
    cfg, _ = load_recipe(path, {'dataset': 'digits'}, [])
    assert cfg.model.data_preprocessor == {'type': 'vadslim.ImagePreprocessor', 'statistics': 'digits', 'pad': 4}
    assert (cfg.model.num_classes, cfg.model.image_size, cfg.train_dataloader.dataset.size) == (10, 32, 32)
    cfg, _ = load_recipe(str(FOLDER / 'rsst_vit_tiny.py'), {'dataset': 'digits'}, [])
    assert (cfg.model.image_size, cfg.train_dataloader.dataset.size) == (16, 16)
    cfg, _ = load_recipe(path, {'dataset': 'cifar100', 'data': 'here'}, [])
    assert cfg.model.num_classes == 100 and cfg.val_dataloader.dataset.root == 'here'


@pytest.mark.parametrize('arch', ARCHS)
def test_networks_by_name(arch):
    cfg, settings = load_recipe(None, {'arch': arch, 'dataset': 'digits'}, [])
    assert cfg.model.image_size == (16 if 'vit' in arch else 32)
    assert cfg.train_dataloader.dataset.size == cfg.model.image_size
    if arch in ('res20s', 'vit_tiny', 'my_vgg'):
        check(MODELS.build(cfg.model), settings, cfg.optim_wrapper.optimizer)


def test_a_class_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / 'my_nets.py').write_text(
        textwrap.dedent("""
            from torch import nn
            from vadslim.classification.classifier import Classifier
            from vadslim.registry import MODELS

            @MODELS.register_module()
            class MyNet(Classifier):
                def __init__(self, num_classes=10, **options):
                    super().__init__(**options)
                    self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3)
                    self.fc = nn.Linear(8, num_classes)

                def logits(self, images):
                    return self.fc(self.conv2(self.conv1(images).relu()).relu().mean((2, 3)))
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"--arch 'MyNet': choose from .*, or a class that is registered"):
        load_recipe(None, {'arch': 'MyNet', 'dataset': 'digits'}, [])
    for name in ('MyNet', 'vadslim.MyNet'):
        cfg, settings = load_recipe(None, {'arch': name, 'dataset': 'digits', 'imports': ['my_nets']}, [])
        model = MODELS.build(cfg.model)
        assert type(model).__name__ == 'MyNet'
        assert list(prunable(model, settings)) == ['conv2.weight']
        assert 'my_nets' in cfg.custom_imports.imports  # for tools/test.py
    both = Settings(struct='imp', conv1=True, fc=True)
    assert list(prunable(model, both)) == ['conv1.weight', 'conv2.weight', 'fc.weight']


def test_mistakes(tmp_path, no_data):
    path = str(write_recipe(tmp_path / 'toy.py'))
    (tmp_path / 'empty.py').write_text("_base_ = []\nsparse = dict(arch='toy')\n")
    for file, flags, why in (
        (path, {'arch': 'foo'}, "--arch 'foo': choose from res20s"),
        (path, {'arch': 'foo.bar'}, "--arch 'foo.bar': choose from res20s"),
        (path, {'dataset': 'foo'}, "--dataset 'foo': choose from cifar10, cifar100, tiny-imagenet"),
        (path, {'imports': ['no_such_module']}, 'must be in PYTHONPATH'),
        (path, {'data': 'x'}, 'does not lie in a folder'),
        (str(tmp_path / 'to.py'), {}, 'no such config; did you mean'),
        (str(tmp_path / 'empty.py'), {}, 'has no model; it may also be named by --arch and --dataset'),
    ):
        with pytest.raises(UserError) as caught:
            load_recipe(file, flags, [])
        assert why in str(caught.value) and '\n' not in str(caught.value)


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(UserError) as caught:
        load_recipe(None, {'dataset': 'cifar100', 'data': str(tmp_path / 'no')}, [])
    assert str(tmp_path / 'no') in str(caught.value)


def test_one_config_for_all(tmp_path):
    """What the run writes as config.py is a config that other tools read."""
    cfg, _ = load_recipe(str(write_recipe(tmp_path / 'toy.py')), {}, [])
    (tmp_path / 'config.py').write_text(cfg.pretty_text)
    again = Config.fromfile(tmp_path / 'config.py')
    assert again.model == cfg.model and again.param_scheduler == cfg.param_scheduler and 'sparse' not in again
