"""Runs of sparse training as files: ours, and the predecessor's."""

import copy
import json

import torch
from torch import nn
from torch.nn.utils import prune

LAYERS = ('layer1.0.conv1.weight', 'layer2.0.downsample.0.weight')


def level(number, test=90.0, epochs=2, layers=LAYERS, factor=0.8, reg_lambda=0.0, **changes):
    """One level as ``results.json`` has it."""
    left = factor**number
    history = [
        {'epoch': e, 'loss': 1 / e, 'val': test + 1 - epochs + e, 'lr': 0.1, 'reg_lambda': reg_lambda * e / epochs}
        for e in range(1, epochs + 1)
    ]
    return {
        'level': number,
        'remain_weight': 100 * left,
        'remain_weight_element': 100 * left * 0.95,
        'density': dict.fromkeys(layers, left),
        'best_epoch': epochs,
        'val': test + 1,
        'test': test,
        'test_last': test - 0.5,
        'history': history,
        'size': None,
        'struct_head': None,
        'seconds': 10.0,
        **changes,
    }


def write_run(folder, levels, name=None, **settings):
    """A run of ours; ``levels`` may be test accuracies. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    levels = [level(number, test) if isinstance(test, float) else test for number, test in enumerate(levels)]
    settings = {'arch': 'res20s', 'dataset': 'digits', 'struct': 'rsst', 'rate': 0.2, 'seed': 0, **settings}
    found = {'format': 1, 'name': name or folder.name, 'settings': settings, 'levels': levels}
    (folder / 'results.json').write_text(json.dumps(found))
    return folder


class Net(nn.Module):
    """What the predecessor's global pruning takes (``layer.conv1``), and leaves (the stem ``conv1``, ``fc``)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.layer = nn.ModuleDict({'conv1': nn.Conv2d(2, 4, 3), 'conv2': nn.Conv2d(4, 4, 3)})
        self.fc = nn.Linear(4, 2)


def predecessor_checkpoint(state, val, test, model=None, epoch=None, **changes):
    """What the predecessor saves: with masks in states after the first, 0.5 of ``layer.conv1`` and 1.0 of the other."""
    model = model or Net()
    init = copy.deepcopy(model.state_dict())
    if state:
        mask = torch.ones_like(model.layer['conv1'].weight)
        mask[:2] = 0
        prune.custom_from_mask(model.layer['conv1'], 'weight', mask)
        prune.custom_from_mask(model.layer['conv2'], 'weight', torch.ones_like(model.layer['conv2'].weight))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [91, 136])
    return {
        'state': state,
        'result': {'train': [50.0] * len(val), 'ta': val, 'test_ta': test},
        'epoch': len(val) if epoch is None else epoch,
        'state_dict': model.state_dict(),
        'best_sa': max(val, default=0),
        'optimizer': optimizer.state_dict(),
        'scheduler': scheduler.state_dict(),
        'init_weight': init,
        **changes,
    }


def write_predecessor(folder, states=3):
    """A run of the predecessor; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for state in range(states):
        val, test = [60.0 + state, 70.0 + state, 65.0], [61.0, 69.0 - state, 66.0]
        torch.save(predecessor_checkpoint(state, val, test), folder / f'{state}checkpoint.pth.tar')
        best = predecessor_checkpoint(state, val[:2], test[:2])
        torch.save(best, folder / f'{state}model_SA_best.pth.tar')
    return folder
