"""Element-wise pruning: exact counts, the right layers, shapes untouched."""

import torch
from torch import nn

from vadslim.checkpoint import load_checkpoint
from vadslim.slimming.elementwise import element_sets, prune_elements, zero_smallest


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2))
        self.img_neck = nn.ModuleDict({'lateral': nn.Conv2d(4, 5, 1)})
        self.pts_bbox_head = nn.ModuleDict(
            {'transformer': nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 5)), 'branch': nn.Linear(5, 2)}
        )


def test_globally_the_smallest_and_exactly_as_many():
    weights = {'a': torch.tensor([[3.0, -1.0], [0.5, 2.0]]), 'b': torch.tensor([-0.1, 4.0])}
    zeroed = zero_smallest(weights, 0.5)
    assert zeroed['a'].tolist() == [[3.0, 0.0], [0.0, 2.0]] and zeroed['b'].tolist() == [0.0, 4.0]
    assert weights['b'][0] == -0.1
    assert all(torch.equal(zero_smallest(weights, 0.0)[n], w) for n, w in weights.items())


def test_of_equal_weights_the_first_go():
    assert zero_smallest({'a': torch.ones(10)}, 0.3)['a'].tolist() == [0.0] * 3 + [1.0] * 7


def test_convolutions_by_the_ratio_and_linears_by_half_of_it():
    torch.manual_seed(0)
    model = Detector()
    convolutions, linears = element_sets(model)
    assert convolutions == ['img_backbone.0.weight', 'img_backbone.1.weight', 'img_neck.lateral.weight']
    assert linears == ['pts_bbox_head.transformer.0.weight', 'pts_bbox_head.transformer.1.weight']
    state, lines = prune_elements(model, 0.4)
    sizes = [108, 72, 20]
    assert sum(int((state[n] == 0).sum()) for n in convolutions) == sum(sizes) * 4 // 10
    assert sum(int((state[n] == 0).sum()) for n in linears) == 80 * 2 // 10
    others = set(state) - {*convolutions, *linears}
    assert others and all(torch.equal(state[n], model.state_dict()[n]) for n in others)
    assert len(lines) == 2 and '80 of 200' in lines[0]


DETECTOR = """
from mmengine.model import BaseModel
from torch import nn
from vadslim.registry import MODELS


@MODELS.register_module(force=True)
class SmallDetector(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, inputs, labels=None, mode='tensor'):
        return self.head(self.backbone(inputs).relu())
"""


def test_the_command_writes_it_beside_the_slim_one(command, folder, monkeypatch):
    (folder / 'small_detector.py').write_text(DETECTOR)
    monkeypatch.syspath_prepend(folder)
    (folder / 'det.py').write_text(
        "_base_ = ['toy.py']\n"
        "custom_imports = dict(imports=['vadslim.testing', 'small_detector'])\n"
        "model = dict(_delete_=True, type='vadslim.SmallDetector')\n"
    )
    args = ('--pruning-ratio', '0.25', '--unstructured-ratio', '0.5', '--output-dir', 'out', '--latency', '0')
    code, out, _ = command('det.py', 'random', *args)
    assert code == 0 and '108 of 216' in out
    zeroed = load_checkpoint(folder / 'out' / 'vad_pruned.pth')
    assert (zeroed['version'], zeroed['metadata']['stage']) == (2, 'prune')
    assert zeroed['config']['model'] == {'type': 'vadslim.SmallDetector'}
    state = zeroed['state_dict']
    assert state['backbone.weight'].shape == (8, 3, 3, 3) and (state['backbone.weight'] == 0).sum() == 108
    assert (state['head.weight'] != 0).all()
    slim = load_checkpoint(folder / 'out' / 'vad_structured_pruned.pth')['state_dict']
    assert slim['backbone.weight'].shape == (6, 3, 3, 3)


def test_nothing_to_zero_writes_no_file(command, folder):
    args = ('--unstructured-ratio', '0.5', '--output-dir', 'out', '--latency', '0')
    code, out, _ = command('toy.py', 'random', *args)
    assert code == 0 and 'vad_pruned.pth is not written' in out
    assert not (folder / 'out' / 'vad_pruned.pth').exists()
