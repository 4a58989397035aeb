"""The lines that a regrouping prints, and those of the sparsity of a ViT."""

import torch
from torch import nn

from vadslim.classification.vit import VisionTransformer
from vadslim.sparse import (
    VIT_LAYERS,
    dense_masks,
    find_units,
    prunable_weights,
    regroup,
    regroup_lines,
    remain_weight,
    sparsity_lines,
)


def tiny(**options):
    """ViT-tiny with 22,000 of the 110,592 weights of each qkv pruned; of three heads the second is the best."""
    model = VisionTransformer('tiny')
    weights = prunable_weights(model, (nn.Linear,), VIT_LAYERS, ())
    layers, masks = find_units(model, weights), dense_masks(weights)
    for layer in layers:
        if layer.kind == 'head':
            masks[layer.maker].view(-1)[:22_000] = False
    scores = {
        layer.name: torch.tensor([2.5, 4.25, 1]) if layer.kind == 'head' else torch.arange(384.0) for layer in layers
    }
    return regroup(layers, masks, scores, 0.3, **options)


LAYER = """\
Layer: blocks.0.attn.qkv
  Shape: torch.Size([576, 192])
  Num heads: 3, Head dim: 64, Embed dim: 192
  Head importance: [2.5  4.25 1.  ]
  Keeping 2/3 heads: [1 0]
  Original sparsity: 19.89%
  New sparsity: 33.33% (head-level)
  Also updated proj mask: blocks.0.attn.proj
"""
NEURONS = """\
Layer: blocks.0.mlp.fc1
  Shape: torch.Size([384, 192])
  Keeping 268/384 neurons
  Original sparsity: 0.00%
  New sparsity: 30.21% (neuron-level)
  Also updated fc2 mask: blocks.0.mlp.fc2
"""
THICK, THIN = '=' * 80, '─' * 80


def test_heads_only():
    text = '\n'.join(regroup_lines(tiny(target='head'), 'magnitude', 'refill')) + '\n'
    head = f"""\
{THICK}
[ViT Head-level Quasi-Structured Pruning]
  Criteria: magnitude
  Prune Ratio: 0.3
  Mode: Refill (apply mask)
{THICK}
"""
    assert text.startswith(head + LAYER)
    assert text.endswith(
        f"""\
{THICK}
Summary:
  Total masks generated: 36
  Attention layers: 18
  MLP layers: 18
  Overall sparsity: 16.67%
{THICK}
"""
    )
    assert text.count('Layer: ') == 9 and 'Part 1' not in text and 'neurons' not in text


def test_heads_and_neurons():
    text = '\n'.join(regroup_lines(tiny(), 'l1')) + '\n'
    assert text.startswith(
        f"""\
{THICK}
[ViT Head + MLP Quasi-Structured Pruning]
  Criteria: l1
  Head Prune Ratio: 0.3
  MLP Prune Ratio: 0.3
  Sorting Mode: layer-wise
  Mode: RSST (mask only)
{THICK}
{THIN}
Part 1: Attention Head Pruning (Layer-wise Sorting)
{THIN}
"""
        + LAYER
    )
    assert f'{THIN}\nPart 2: MLP Neuron Pruning (Layer-wise Sorting)\n{THIN}\n{NEURONS}' in text
    assert '  Overall sparsity: 31.77%\n' in text
    assert 'globally' not in text


def test_global():
    lines = regroup_lines(tiny(sorting='global', mlp_ratio=0.5), 'saliency')
    assert 'Part 1: Attention Head Pruning (Global Mixed Sorting)' in lines
    start = lines.index('Total heads collected: 27')
    assert lines[start + 1] == 'Keeping 18/27 heads globally (66.67%)'
    assert lines[start + 2] == 'Layer: blocks.0.attn.qkv'
    start = lines.index('Part 2: MLP Neuron Pruning (Global Mixed Sorting)')
    assert lines[start + 2 : start + 4] == [
        'Total neurons collected: 3456',
        'Keeping 1728/3456 neurons globally (50.00%)',
    ]


def test_neurons_only():
    lines = regroup_lines(tiny(target='mlp', mlp_ratio=0.5), 'l2')
    assert lines[1:4] == ['[ViT MLP Quasi-Structured Pruning]', '  Criteria: l2', '  Prune Ratio: 0.5']
    assert '  Keeping 192/384 neurons' in lines and '  MLP layers: 18' in lines


def test_many_heads_stand_on_one_line():
    """Descending scores; numpy would break and shorten long ones."""
    attention = nn.Module()
    attention.num_heads, attention.qkv, attention.proj = 2000, nn.Linear(1, 6000), nn.Linear(2000, 1)
    masks = dense_masks({'qkv.weight': attention.qkv.weight, 'proj.weight': attention.proj.weight})
    layers = find_units(attention, masks)
    lines = regroup_lines(regroup(layers, masks, {'qkv': torch.arange(2000)}, 0.0, target='head'), 'l1')
    (line,) = (line for line in lines if line.startswith('  Keeping'))
    assert line.startswith('  Keeping 2000/2000 heads: [1999 1998 1997') and len(line.split()) == 2003


def test_sparsity():
    result = tiny()
    lines = sparsity_lines(result.masks)
    assert lines[:3] == [THICK, '[ViT Sparsity Report]', THICK]
    assert lines[3] == f'{"blocks.0.attn.qkv":50} | Sparsity:  33.33% | Zeros:    36864/  110592'
    assert lines[6] == f'{"blocks.0.mlp.fc2":50} | Sparsity:  30.21% | Zeros:    22272/   73728'
    assert len(lines) == 3 + 36 + 5
    assert lines[-5:] == [
        THICK,
        'Total zeros: 843264 / 2654208',
        'Overall sparsity: 31.77%',
        'Remaining weights: 68.23%',
        THICK,
    ]
    assert round(remain_weight(result.masks), 2) == 68.23


def test_nothing_prunable():
    assert 'Remaining weights: 100.00%' in sparsity_lines({})
