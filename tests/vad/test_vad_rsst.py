"""RSST on VAD-nano: once its weights have faded, cutting the units off changes nothing."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from vadslim.hooks import GroupRSSTHook
from vadslim.pruning import StructuredPruner, find_groups, make_structure, resize
from vadslim.registry import HOOKS
from vadslim.slimming.network import load_network
from vadslim.sparse.groups import fade_norms, leaving, lower_logits

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


@pytest.fixture(scope='module')
def network():
    network = load_network(CONFIGS / 'VAD' / 'VAD_nano_synthetic.py', [], None, 0, 'cpu')
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.model.parameters():  # some start at zero
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return network.model.double(), network.examples[0].run


# queries are outputs; narrower queries and keys change the scale of an attention, as the hook's docstring says
@pytest.mark.parametrize('targets', [None, ['kind:point', 'kind:value_dim', 'kind:stream', 'default']])
def test_faded_is_slim(network, targets):
    dense, run = network
    groups = find_groups(dense, run)
    kept = StructuredPruner(0.5, targets=targets).plan(dense, groups)
    with torch.no_grad():
        slim = run(resize(dense, make_structure(dense, groups, kept)))
        model = copy.deepcopy(dense)
        weights = dict(model.named_parameters())
        zeros, logits = leaving(model, groups, kept)
        assert bool(logits) == (targets is not None)
        before = run(model)
        for name, mask in zeros.items():
            weights[name].masked_fill_(mask, 0)
        for _ in range(20):
            lower_logits(weights, logits, 1.0)
        norms = fade_norms(model, zeros)
        assert norms
        for norm in norms:
            norm.left = 0.0
        faded = run(model)
    compared = [name for name, value in slim.items() if isinstance(value, torch.Tensor)]
    assert 'ego_fut_preds' in compared
    for name in compared:
        torch.testing.assert_close(faded[name], slim[name], rtol=1e-8, atol=1e-9)
    assert not torch.allclose(before['ego_fut_preds'], slim['ego_fut_preds'], rtol=1e-3)


def test_the_recipe_builds():
    cfg = Config.fromfile(CONFIGS / 'sparse' / 'vad_nano_rsst.py')
    (hook,) = [HOOKS.build(each) for each in cfg.custom_hooks]
    assert isinstance(hook, GroupRSSTHook) and hook.asked['ratio'] == '0.3'
    assert cfg.train_cfg.max_epochs == 2 and cfg.model.type == 'VAD'
