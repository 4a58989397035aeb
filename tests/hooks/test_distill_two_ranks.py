"""Distillation by two processes over gloo, in float32 and in mixed precision: one student, an untouched teacher."""

import contextlib
import gc

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from vadslim.checkpoint import load_checkpoint, save_checkpoint
from vadslim.hooks import DistillHook
from vadslim.launch import adapt_to_device
from vadslim.pruning import StructuredPruner, find_groups, make_structure
from vadslim.testing import ToyNet, toy_config, toy_frames, toy_runner

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
LOSSES = [
    dict(module='classifier', kind='kl', weight=20.0),
    dict(module='conv1', kind='mse', name='features'),
    dict(module='norm', kept='conv2.weight:0', kind='cosine'),
]
TERMS = ('loss', 'loss_distill_classifier', 'loss_distill_features', 'loss_distill_norm')


@OPTIM_WRAPPERS.register_module(force=True)
class MixedPrecision(OptimWrapper):
    """What MMEngine's AmpOptimWrapper does, which is made for GPUs only."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scaler = torch.amp.GradScaler('cpu')

    @contextlib.contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield

    def backward(self, loss, **options):
        self.scaler.scale(loss).backward(**options)

    def step(self, **options):
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Recorder(Hook):
    """The losses of every iteration, and the teacher before and after."""

    priority = 'VERY_HIGH'  # in after_train before the teacher goes

    def __init__(self):
        self.losses, self.dtypes = [], set()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            (hook,) = [hook for hook in runner.hooks if isinstance(hook, DistillHook)]
            self.teacher = hook.teacher
            self.before = {name: value.clone() for name, value in self.teacher.state_dict().items()}
            runner.model.module.conv2.register_forward_hook(lambda *args: self.dtypes.add(args[2].dtype))
            self.teacher.conv2.register_forward_hook(lambda *args: self.dtypes.add(args[2].dtype))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: float(value) for name, value in outputs.items()})

    def after_train(self, runner):
        teacher = self.teacher
        self.after = {name: value.clone() for name, value in teacher.state_dict().items()}
        self.touched = any(p.requires_grad or p.grad is not None for p in teacher.parameters())
        self.training = any(module.training for module in teacher.modules())


def train(rank, folder, slim, wrapper):
    """What one process has seen and made."""
    config = toy_config(folder / wrapper, epochs=3, model=slim)
    config['train_cfg'] = {'by_epoch': True, 'max_epochs': 3}
    config['optim_wrapper'] = {'type': wrapper, 'optimizer': {'type': 'AdamW', 'lr': 1e-2}}
    config['launcher'] = 'pytorch'
    hook = {'type': 'vadslim.DistillHook', 'teacher': {'checkpoint': str(folder / 'dense.pth')}, 'losses': LOSSES}
    config['custom_hooks'] += [hook]
    config = Config({**config, 'val_evaluator': None, 'val_cfg': None, 'val_dataloader': None})
    adapt_to_device(config, 'pytorch')
    runner, recorder = toy_runner(config.to_dict()), Recorder()
    runner.register_hook(recorder)
    runner.train()
    seen = {name: getattr(recorder, name) for name in ('losses', 'before', 'after', 'touched', 'training')}
    kinds = sorted(str(dtype) for dtype in recorder.dtypes)
    return {**seen, 'dtypes': kinds, 'wrapped': type(runner.model).__name__, 'state': runner.model.module.state_dict()}


def rank_main(rank, folder, slim):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', str(rank))
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr(Config, 'pretty_text', '')  # formatting the structure's long lists takes seconds
        seen = {wrapper: train(rank, folder, slim, wrapper) for wrapper in ('OptimWrapper', 'MixedPrecision')}
    torch.save(seen, folder / f'{rank}.pth')
    gc.collect()  # the last of a group's wrappers must not outlive it: its end would wait for threads that wait for it
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What both have seen, and the teacher's weights."""
    folder = tmp_path_factory.mktemp('ranks')
    torch.manual_seed(3)
    model = ToyNet().eval()
    groups = find_groups(model, toy_frames())
    structure = make_structure(model, groups, StructuredPruner(0.5).plan(model, groups))
    save_checkpoint({'state_dict': model.state_dict(), 'meta': {}}, folder / 'dense.pth')
    slim = {'type': 'vadslim.SlimModel', 'architecture': {'type': 'vadslim.ToyNet'}, 'structure': structure.to_dict()}
    # forked: two more imports take long
    torch.multiprocessing.start_processes(rank_main, (folder, slim), nprocs=2, start_method='fork')
    return [torch.load(folder / f'{rank}.pth') for rank in (0, 1)], load_checkpoint(folder / 'dense.pth')['state_dict']


@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'MixedPrecision'])
def test_one_student_and_an_untouched_teacher(ranks, wrapper):
    (first, second), teacher = [rank[wrapper] for rank in ranks[0]], ranks[1]
    assert first['wrapped'] == second['wrapped'] == 'MMDistributedDataParallel'
    assert first['dtypes'] == (['torch.bfloat16'] if wrapper == 'MixedPrecision' else ['torch.float32'])
    trained = dict(ToyNet().named_parameters())
    for name in trained:
        assert torch.equal(first['state'][name], second['state'][name]), name
    assert not torch.equal(first['state']['bn1.running_mean'], second['state']['bn1.running_mean'])  # other images
    for rank in (first, second):
        assert not rank['touched'] and not rank['training']
        assert rank['before'].keys() == rank['after'].keys() == teacher.keys()
        for name, value in teacher.items():
            assert torch.equal(rank['before'][name], value) and torch.equal(rank['after'][name], value), name
        assert len(rank['losses']) == 6  # 16 images, 2 processes, 4 at a time, 3 epochs
        assert all(set(TERMS) <= set(row) and all(0 < row[name] < 100 for name in TERMS) for row in rank['losses'])
        start, end = (sum(rank['losses'][i]['loss_distill_classifier'] for i in pair) for pair in ((0, 1), (4, 5)))
        assert end < start
    assert first['losses'] != second['losses']
