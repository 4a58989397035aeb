"""Units that others look at: the masked twin hides them as keys, whatever masks the caller has."""

import pytest
import torch
from torch import nn

from vadslim.pruning import Group, ProofError, Slice, blocks, check_group, hide_keys, hides_units


class Queries(nn.Module):
    """Queries that look at each other and at an image, as in DETR; the last two may not be seen by the first."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.queries = nn.Embedding(6, 8)
        layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=batch_first)
        self.decoder = nn.TransformerDecoder(layer, 2)

    def forward(self, image):
        batch_first = self.decoder.layers[0].self_attn.batch_first
        count = len(self.queries.weight)
        query = self.queries.weight[:, None].expand(-1, 3, -1)
        blocked = torch.zeros(count, count, dtype=torch.bool)
        blocked[0, -2:] = True
        padding = torch.zeros(3, count, dtype=torch.bool)
        padding[1, -1] = True
        if batch_first:
            return self.decoder(query.transpose(0, 1), image, tgt_mask=blocked, tgt_key_padding_mask=padding)
        image = image.transpose(0, 1)
        return self.decoder(query, image, tgt_mask=blocked, tgt_key_padding_mask=padding).transpose(0, 1)


@hides_units(Queries)
def hide_queries(module, gone):
    for layer in module.decoder.layers:
        hide_keys(layer.self_attn, gone['queries.weight'])


IMAGE = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0)).double()
GROUP = Group('queries', 'query', 6, [Slice('queries.weight', 0, blocks(6))])


def run(module):
    said = module(IMAGE)
    return said[:, [0, 2, 4, 5]] if said.shape[1] == 6 else said


@pytest.mark.parametrize('batch_first', [False, True])
def test_removed_queries_are_no_keys(batch_first):
    torch.manual_seed(0)
    check_group(Queries(batch_first), GROUP, {'queries': [0, 2, 4, 5]}, run)


def test_zeros_alone_do_not_hide_them(monkeypatch):
    monkeypatch.setattr('vadslim.pruning.hiding._HIDERS', {})
    with pytest.raises(ProofError):
        check_group(Queries(), GROUP, {'queries': [0, 2, 4, 5]}, run)


@pytest.mark.parametrize('dtype', [torch.bool, torch.float32])
def test_positional_arguments(dtype):
    """(query, key, value, key_padding_mask, need_weights, attn_mask)."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2)
    x, mask = torch.randn(5, 2, 8), torch.randn(5, 5)
    stay = [0, 1, 3]
    padding = torch.zeros(2, 5, dtype=dtype)
    padding[0, 0] = 1
    expected = attention(x, x[stay], x[stay], padding[:, stay], True, mask[:, stay])
    hide_keys(attention, [2, 4])
    said = attention(x, x, x, padding, True, mask)
    torch.testing.assert_close(said[0], expected[0])
    torch.testing.assert_close(said[1][..., stay], expected[1])
