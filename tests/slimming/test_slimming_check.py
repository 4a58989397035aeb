"""What slimming would change besides the removed units is found before anything is written."""

import pytest
from mmengine.model import BaseModel
from torch import nn

from vadslim.pruning import Group, Slice, blocks, declares_groups
from vadslim.registry import MODELS
from vadslim.testing import write_toy_config


@MODELS.register_module()
class WidthNet(BaseModel):
    """Divides by the number of its channels, which no trace sees."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.one, self.two, self.three = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, inputs, labels=None, mode='tensor'):
        x = self.one(inputs).relu()
        return self.three(self.two(x / x.shape[1]).relu()).mean((2, 3))


class Mistaken(nn.Module):
    """Two layers with a declaration that takes the columns from the wrong end."""

    def __init__(self):
        super().__init__()
        self.rows, self.columns = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.columns(self.rows(x).relu())


@declares_groups(Mistaken)
def wrong_columns(module, prefix):
    slices = [Slice(f'rows.{name}', 0, blocks(8)) for name in ('weight', 'bias')]
    slices.append(Slice('columns.weight', 1, [[7 - unit] for unit in range(8)]))
    return [Group('rows', 'channel', 8, slices).prefixed(prefix)]


@MODELS.register_module()
class MistakenNet(WidthNet):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.mistaken = Mistaken()

    def forward(self, inputs, labels=None, mode='tensor'):
        return self.mistaken(self.three(self.two(self.one(inputs).relu()).relu())).mean((2, 3))


@pytest.fixture
def config(folder):
    def write(model):
        return write_toy_config('net.py', 'work', log_level='ERROR', model={'type': f'vadslim.{model}'})

    return write


def test_a_number_made_of_a_width_protects_its_group(command, config):
    code, out, err = command(config('WidthNet'), 'random', '--pruning-ratio', '0.5', '--dry-run')
    assert code == 0, err
    text = ' '.join((out + err).split())
    assert '1 kept whole, tried without half of its units: slim and masked differ by' in text
    assert 'one.channels' in text.partition('1 kept whole, tried')[2]
    assert 'two.channels channel 3 6' in ' '.join(text.replace('│', ' ').split())


def test_a_wrong_declaration_is_found_before_anything_is_written(command, config, folder):
    config('MistakenNet')
    before = sorted(folder.iterdir())
    code, out, err = command('net.py', 'random', '--pruning-ratio', '0.5', '--output-dir', 'out')
    assert code == 2
    assert 'mistaken.rows' in err.splitlines()[-1]
    assert 'slim and masked differ by' in err.splitlines()[-1]
    assert '--protect mistaken.rows' in err.splitlines()[-1]
    assert sorted(folder.iterdir()) == before
    code, out, err = command(
        'net.py', 'random', '--pruning-ratio', '0.5', '--output-dir', 'out', '--protect', 'mistaken.rows'
    )
    assert code == 0, err
