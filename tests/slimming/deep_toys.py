"""A toy network with layers that can leave, a grid that can be coarser, and batch norms."""

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from vadslim.pruning import Resizable, Stack, declares_edits
from vadslim.registry import MODELS
from vadslim.testing import write_toy_config


class Layer(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        return x + super().forward(x)


@MODELS.register_module()
class DeepNet(BaseModel):
    """Images look at the cells of a grid; each layer has a classifier."""

    def __init__(self, rows=4, columns=6, depth=3, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.rows, self.columns = rows, columns
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.cells = nn.Embedding(rows * columns, 8)
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.map_decoder = nn.Module()
        self.map_decoder.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.heads = nn.ModuleList(nn.Linear(8, 4) for _ in range(depth))

    def forward(self, inputs, labels=None, mode='tensor'):
        x = self.bn2(self.conv2(self.bn1(self.conv1(inputs)).relu())).relu().mean((2, 3))
        x = x + (x @ self.cells.weight.T).softmax(-1) @ self.cells.weight
        for layer in self.map_decoder.layers:
            x = layer(x)
        said = []
        for layer, head in zip(self.decoder.layers, self.heads):
            x = layer(x)
            said.append(head(x))
        logits = torch.stack(said)
        if mode == 'loss':
            return {'loss': sum(nn.functional.cross_entropy(each, labels) for each in logits)}
        if mode == 'predict':
            return [{'scores': row, 'label': label} for row, label in zip(logits[-1].softmax(1), labels)]
        return {'logits': logits, 'best': logits[-1].softmax(-1)}


@declares_edits(DeepNet)
def deep_edits(net):
    def resized(size):
        tensors = {'cells.weight': {'dim': 0, 'sizes': [[net.rows, net.columns], list(size)]}}
        return {'type': 'grid', 'tensors': tensors, 'attrs': {'rows': size[0], 'columns': size[1]}}

    return [
        Stack('decoder.layers', ('heads',)),
        Stack('map_decoder.layers'),
        Resizable('cells', (net.rows, net.columns), resized),
    ]


def write_deep_config(file='deep.py', **changes):
    """The config, in the current folder."""
    return write_toy_config(file, 'work', log_level='ERROR', model={'type': 'vadslim.DeepNet'}, **changes)


def train_deep(file='deep.py', epochs=1):
    """Trains it; returns the checkpoint's path."""
    cfg = Config.fromfile(file)
    cfg.train_cfg.max_epochs = epochs
    cfg.experiment_name = f'{file}_for_edits'
    Runner.from_cfg(cfg).train()
    return f'work/epoch_{epochs}.pth'
