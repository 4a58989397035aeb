"""A network of which every sensitivity can be worked out by hand, and an evaluator that keeps a ledger."""

import os
import signal
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from vadslim.registry import DATASETS, METRICS, MODELS

CONFIG = """
default_scope = 'mmengine'
custom_imports = dict(imports=['sensitivity_toys'], allow_failed_imports=False)
model = dict(type='vadslim.LedgerNet')
val_dataloader = dict(
    batch_size=1, num_workers=0, dataset=dict(type='vadslim.LedgerFrames'),
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
val_evaluator = dict(type='vadslim.LedgerMetric')
val_cfg = dict()
"""


@MODELS.register_module()
class LedgerNet(BaseModel):
    """Says 36, whatever it sees: unit u of ``alive`` adds u + 1; the four units of ``dead`` are zero."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.dead_in, self.dead_out = nn.Linear(2, 4), nn.Linear(4, 1, bias=False)
        self.alive_in, self.alive_out = nn.Linear(2, 8), nn.Linear(8, 1, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(self.alive_in.bias)
        self.alive_out.weight.data[0] = torch.arange(1.0, 9.0)

    def forward(self, inputs, mode='tensor'):
        x = self.dead_out(self.dead_in(inputs).relu()) + self.alive_out(self.alive_in(inputs).relu())
        return [{'value': float(value)} for value in x[:, 0]] if mode == 'predict' else x


@DATASETS.register_module()
class LedgerFrames(Dataset):
    """Six frames of three scenes."""

    metainfo = {'classes': ()}

    def scene_tokens(self):
        return ['a', 'a', 'b', 'b', 'b', 'c']

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {'inputs': torch.rand(2)}


@METRICS.register_module()
class LedgerMetric(BaseMetric):
    """Writes a line per evaluation into $LEDGER, and at that number $LEDGER_DIE_AT ends its process without a word."""

    def process(self, data_batch, data_samples):
        self.results += [sample['value'] for sample in data_samples]

    def compute_metrics(self, results):
        ledger = Path(os.environ['LEDGER'])
        with ledger.open('a') as file:
            file.write(f'{len(results)}\n')
        if len(ledger.read_text().split()) == int(os.environ.get('LEDGER_DIE_AT', 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        mean = sum(results) / len(results)
        return {'error': 40 - mean, 'value': mean, 'miss': 0.0, 'unknown': float('nan'), 'remark': 'no number'}
