"""DistillHook in a real Runner: exact losses on a linear toy, a student that comes nearer, nothing left behind."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from vadslim.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from vadslim.cli import UserError
from vadslim.hooks import DistillHook, distill_config
from vadslim.hooks.distill_hook import distill
from vadslim.hooks.distill_loss import DistillLoss, Kept
from vadslim.pruning import StructuredPruner, depth_edit, find_groups, make_structure, resize
from vadslim.testing import ToyNet, toy_config, toy_frames, toy_runner

LOSSES = [
    dict(module='classifier', kind='kl', weight=20.0),
    dict(module='conv1', kind='mse', name='features'),
    dict(module='norm', kept='conv2.weight:0', kind='cosine'),
]


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    """A checkpoint of a ToyNet, and a slim architecture that starts from other weights."""
    folder = tmp_path_factory.mktemp('dense')
    torch.manual_seed(3)
    model = ToyNet().eval()
    groups = find_groups(model, toy_frames())
    structure = make_structure(model, groups, StructuredPruner(0.5).plan(model, groups))
    save_checkpoint({'state_dict': model.state_dict(), 'meta': {}}, folder / 'dense.pth')
    slim = {'type': 'vadslim.SlimModel', 'architecture': {'type': 'vadslim.ToyNet'}, 'structure': structure.to_dict()}
    return folder / 'dense.pth', slim


class Recorder(Hook):
    """The losses of every iteration."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: value.item() for name, value in outputs.items()})


def config_of(folder, epochs, model, **changes):
    """Of a training without validation."""
    config = toy_config(folder, epochs=epochs, model=model, **changes)
    config['train_cfg'] = {'by_epoch': True, 'max_epochs': epochs}
    return {**config, 'val_evaluator': None, 'val_cfg': None, 'val_dataloader': None}


def trained(config, dense, weight=1.0):
    losses = [{**loss, 'weight': weight * loss.get('weight', 1.0)} for loss in LOSSES]
    hook = {'type': 'vadslim.DistillHook', 'teacher': {'checkpoint': str(dense)}, 'losses': losses}
    runner = toy_runner({**config, 'custom_hooks': [*config['custom_hooks'], hook]})
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder.losses


def test_a_slim_student_comes_nearer(tmp_path, dense):
    source, slim = dense
    config = config_of(tmp_path, 4, slim)
    config['optim_wrapper'] = {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1e-2}}
    runner, losses = trained(config, source)
    assert len(losses) == 16
    for name in ('loss_distill_classifier', 'loss_distill_features', 'loss_distill_norm'):
        first, last = (sum(row[name] for row in rows) for rows in (losses[:4], losses[-4:]))
        assert 0 < last < 0.8 * first, name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in runner.model.modules())


def test_resumed_equals_uninterrupted(tmp_path, dense):
    source, slim = dense
    whole, _ = trained(config_of(tmp_path / 'whole', 2, slim), source)
    changes = {'load_from': str(tmp_path / 'whole' / 'epoch_1.pth'), 'resume': True}
    resumed, _ = trained(config_of(tmp_path / 'half', 2, slim, **changes), source)
    state = resumed.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.state_dict().items())


def test_with_no_weight_it_changes_nothing_and_leaves_nothing(tmp_path, dense):
    """The teacher draws no random numbers, and its batch norms and the student's are two things."""
    source, slim = dense
    with_teacher, losses = trained(config_of(tmp_path / 'a', 1, slim), source, weight=0.0)
    alone = toy_runner(config_of(tmp_path / 'b', 1, slim))
    alone.train()
    assert losses[0]['loss_distill_classifier'] == 0
    state = alone.model.state_dict()
    saved, without = (load_checkpoint(tmp_path / name / 'epoch_1.pth') for name in 'ab')
    assert saved.keys() == without.keys()
    assert saved['state_dict'].keys() == without['state_dict'].keys()
    assert len(saved['optimizer']['state']) == len(without['optimizer']['state'])
    assert all(torch.equal(value, state[name]) for name, value in with_teacher.model.state_dict().items())


class Linear(BaseModel):
    """y = relu(a w x), called twice; noise on x in training."""

    def __init__(self, weight, calls=2):
        super().__init__()
        self.inner = nn.Linear(1, 1, bias=False)
        self.outer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.inner.weight, weight)
        nn.init.constant_(self.outer.weight, 1.0)
        self.noise = nn.Dropout(0.5)
        self.calls, self.finished = calls, 0

    def forward(self, inputs, mode='tensor'):
        inputs = self.noise(inputs)
        for _ in range(self.calls):
            inputs = self.outer(self.inner(inputs)).relu_()
        self.finished += 1
        return {'loss': inputs.sum() * 0} if mode == 'loss' else inputs


def test_exact_values_and_gradients():
    student, teacher = Linear(3.0).eval(), Linear(2.0).eval()
    handles = distill(student, teacher, [DistillLoss('inner', weight=0.5)], Kept())
    x = torch.tensor([[1.0], [2.0]])
    losses = student(x, mode='loss')
    # the last of two calls: w^2 x, so 9 x - 4 x
    assert losses['loss_distill_inner'].item() == pytest.approx(0.5 * 25 * (1 + 4) / 2)
    losses['loss_distill_inner'].backward()
    # d/dw mean((w^2 - 4)^2 x^2) / 2 = mean(2 (w^2 - 4) 2 w x^2) / 2
    assert student.inner.weight.grad.item() == pytest.approx(0.5 * 2 * 5 * 6 * 2.5)
    assert teacher.inner.weight.grad is None
    assert teacher.finished == 0  # nothing after what is compared is run
    assert student(x, mode='predict').flatten().tolist() == [9.0, 18.0]
    assert set(student(x, mode='loss')) == {'loss', 'loss_distill_inner'}
    for handle in handles:
        handle.remove()
    assert set(student(x, mode='loss')) == {'loss'}


def test_a_layer_says_what_it_said_before_others_wrote_over_it():
    student = Linear(-1.0, calls=1)
    distill(student, Linear(-2.0, calls=1).eval(), [DistillLoss('outer')], Kept())
    assert student.eval()(torch.ones(1, 1), mode='loss')['loss_distill_outer'].item() == 1.0


def test_a_module_that_is_not_called():
    student = Linear(1.0, calls=0)
    distill(student, Linear(1.0), [DistillLoss('inner')], Kept())
    with pytest.raises(UserError, match='inner was not called in the forward of Linear'):
        student(torch.ones(1, 1), mode='loss')


def test_both_draw_the_same_numbers():
    student, teacher = Linear(2.0).train(), Linear(2.0).train()
    distill(student, teacher, [DistillLoss('outer')], Kept())
    x = torch.ones(64, 1)
    for seed in range(3):
        torch.manual_seed(seed)
        assert student(x, mode='loss')['loss_distill_outer'].item() == 0
        after = torch.rand(())
        torch.manual_seed(seed)
        student.noise(x)
        assert after == torch.rand(())
    teacher.eval()
    assert student(x, mode='loss')['loss_distill_outer'].item() > 0


def test_autocast():
    student, teacher = Linear(3.0), Linear(2.0)
    distill(student.eval(), teacher.eval(), [DistillLoss('outer')], Kept())
    with torch.autocast('cpu', torch.bfloat16):
        value = student(torch.ones(1, 1), mode='loss')['loss_distill_outer']
    assert value.dtype == torch.float32
    assert value.item() == 25.0


def test_layers_have_the_dense_networks_names():
    class Stack(BaseModel):
        def __init__(self):
            super().__init__()
            self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 3)

        def forward(self, inputs, mode='tensor'):
            return {'loss': self.body(inputs).sum()}

    teacher = Stack()
    for parameter in teacher.body.layers[1].parameters():  # with zeros after its norms this is no identity
        nn.init.normal_(parameter)
    structure = make_structure(teacher, [], {}, edits=[depth_edit(teacher, 'body.layers', [0, 2])])
    student = resize(teacher, structure)
    distill(student, teacher, [DistillLoss('body.layers.0', name='0'), DistillLoss('body.layers.2')], Kept(structure))
    losses = student(torch.randn(2, 5, 8), mode='loss')
    assert losses['loss_distill_0'] == 0 and losses['loss_distill_2'] > 0
    with pytest.raises(UserError, match=r'losses: body.layers.1: Stack has no such module'):
        distill(resize(teacher, structure), teacher, [DistillLoss('body.layers.1')], Kept(structure))


def test_the_teachers_checkpoint_is_checked(tmp_path, dense):
    _, slim = dense
    state = ToyNet(hidden=40).state_dict()
    save_checkpoint({'state_dict': state, 'meta': {}}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'teacher .*other.pth is not one of ToyNet: ffn.0.weight is \(40, 16\)'):
        DistillHook({'checkpoint': str(tmp_path / 'other.pth')}, LOSSES).before_train(
            toy_runner(toy_config(tmp_path, model=slim))
        )


def test_a_slim_teacher(tmp_path, dense):
    """One that is the student itself."""
    _, slim = dense
    runner = toy_runner(toy_config(tmp_path, model=slim))
    state, meta = runner.model.state_dict(), {'structure': slim['structure']}
    save_checkpoint({'state_dict': copy.deepcopy(state), 'meta': meta}, tmp_path / 'slim.pth')
    hook = DistillHook({'checkpoint': str(tmp_path / 'slim.pth')}, LOSSES, in_training=['bn1', 'ffn'])
    hook.before_train(runner)
    assert [name for name, part in hook.teacher.named_modules() if part.training] == [
        *('bn1', 'ffn', 'ffn.0', 'ffn.1', 'ffn.2', 'ffn.3')
    ]
    runner.model.eval()
    hook.teacher.eval()
    losses = runner.model(toy_frames(), torch.zeros(2, dtype=torch.long), mode='loss')
    assert [name for name in losses if 'distill' in name and abs(losses[name].item()) > 1e-6] == []
    assert len(losses) == 4


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'teacher': {'model': {}}}, 'teacher needs a checkpoint'),
        ({'teacher': {'checkpoint': 'x', 'weights': 'y'}}, 'teacher needs a checkpoint'),
        ({'losses': []}, 'losses is empty'),
        ({'losses': [{'module': 'a.b'}, {'module': 'c.b'}]}, "two losses are named 'b'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        DistillHook(**{'teacher': {'checkpoint': 'x.pth'}, 'losses': [{'module': 'm'}], **options})


def test_the_hook_of_a_config():
    cfg = Config({'distillation': {'losses': [{'module': 'm'}], 'in_training': ['mask']}})
    hook = distill_config(cfg, 'dense.pth')
    assert hook == {
        'type': 'vadslim.DistillHook',
        'teacher': {'checkpoint': 'dense.pth'},
        'losses': [{'module': 'm'}],
        'in_training': ['mask'],
    }
    with pytest.raises(UserError, match='distillation = dict'):
        distill_config(Config({'model': {}}), 'dense.pth')
