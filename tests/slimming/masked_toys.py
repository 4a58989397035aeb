"""A masked checkpoint of the toy network, of which it is known what can go."""

import torch

from vadslim.checkpoint import save_checkpoint
from vadslim.testing import ToyNet

DEAD = {'conv1.channels': [1, 6], 'attention.heads': [2], 'ffn.0.neurons': list(range(20, 32))}
UNITS = sum(map(len, DEAD.values()))


def toy_masks(model, companions=True):
    """Two filters with what follows them, a head and twelve neurons by what reads them, and scattered weights."""
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for name in ('conv1.weight', *(('bn1.weight', 'bn1.bias') if companions else ())):
        masks[name][DEAD['conv1.channels']] = False
    masks['attention.out_proj.weight'][:, 8:12] = False
    masks['ffn.3.weight'][:, 20:] = False
    masks['ffn.0.weight'][3, ::2] = False
    return {name: mask for name, mask in masks.items() if not mask.all()}


def trained_toy():
    """A network with the biases and statistics of a trained one."""
    torch.manual_seed(3)
    model = ToyNet()
    for part in (model.bn1, model.bn2):
        for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    torch.nn.init.uniform_(model.attention.in_proj_bias, -1, 1)
    return model.eval()


def write_masked(path, zeros, apply=True, **more):
    """Write the checkpoint; with ``apply=False`` the masks stand beside weights that were not masked."""
    model = trained_toy()
    state = model.state_dict()
    if apply:
        state.update({name: state[name] * mask for name, mask in zeros.items()})
    save_checkpoint({'state_dict': state, 'meta': {'epoch': 3}, **more}, path)
    model.load_state_dict({name: state[name] * zeros.get(name, torch.ones(())) for name in state})
    return model
