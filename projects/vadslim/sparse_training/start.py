"""The weights that levels start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from vadslim.checkpoint import load_checkpoint
from vadslim.cli import UserError, say
from vadslim.experiment import weights_of
from vadslim.hooks.transfer import differences, shorten

State = dict[str, Tensor]
#: modules that pt and pt_trans draw anew: stems and classifiers, by the names of their tensors
_NEW = ('conv1.', 'fc.', 'head.', 'classifier.', 'linear.')


def initial_weights(model: nn.Module, inputs: Mapping[str, Path]) -> State:
    """The weights that level 0 starts from.

    Args:
        model: with random ones.
        inputs: ``init``: a file with all of them. ``pretrained``: one with some, whose names and shapes fit.

    Raises:
        UserError: a file is of another network.
    """
    if 'init' in inputs:
        content = load_checkpoint(inputs['init'])
        state = weights_of(content, inputs['init'])
        if problems := differences(model, state):
            raise UserError(f'--init {inputs["init"]}: is not of this {type(model).__name__}: {shorten(problems)}')
        model.load_state_dict(state)
    elif 'pretrained' in inputs:
        from vadslim.classification.pretrained import load_pretrained

        found = load_pretrained(model, inputs['pretrained'])
        say(f'--pretrained {inputs["pretrained"]}: {len(found.copied)} tensors taken, {len(found.left)} left as drawn')
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def rewound(model: nn.Module, initial: Mapping[str, Tensor], prune_type: str) -> State:
    """The weights that a level after the first goes back to.

    Args:
        model: with the random weights of the seed.
        initial: level 0's initial ones, or those of its epoch to rewind to.
        prune_type: ``pt`` and ``pt_trans`` take the stem and the classifier from ``model``.
    """
    state = {name: value.clone() for name, value in initial.items()}
    if prune_type in ('pt', 'pt_trans'):
        drawn = model.state_dict()
        state |= {name: drawn[name].clone() for name in state if name.startswith(_NEW)}
    return state
