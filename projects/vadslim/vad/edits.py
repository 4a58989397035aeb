"""How VAD's architecture can be edited: layers of the encoder and of all decoders, and the grid of its view.

A layer of the object or the map decoder leaves with its branches. The losses count layers by the network's outputs, so
they follow. A coarser view keeps its metric range: cells grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vadslim.pruning import Resizable, Stack, declares_edits, grid_edit

from .decoders import RefiningDecoder
from .head import VADHead
from .transformer_layer import LayerStack

VIEW = 'bev'


class Still(nn.Module):
    """A regression branch in the twin: it says what the branch before it says, but moves the position no further.

    Args:
        branch: The branch before.
        position: The entries that move the position.
    """

    def __init__(self, branch: nn.Module, position: Sequence[int]):
        super().__init__()
        self.branch = branch
        self.position = list(position)

    def forward(self, query: Tensor) -> Tensor:
        """(..., D) -> (..., code)."""
        regression = self.branch(query).clone()
        regression[..., self.position] = 0
        return regression


@declares_edits(LayerStack)
def layers(stack: LayerStack) -> list[Stack]:
    """Layers of any stack; those of the two refining decoders belong to the head, with their branches."""
    return [] if isinstance(stack, RefiningDecoder) else [Stack('layers')]


@declares_edits(VADHead)
def head_edits(head: VADHead) -> list[Stack | Resizable]:
    """The refining decoders with their branches, and the view."""
    return [
        _decoder('decoder', ''),
        _decoder('map_decoder', 'map_'),
        Resizable(VIEW, (head.bev_h, head.bev_w), lambda size: _view_edit(head, size)),
    ]


def _decoder(name: str, branches: str) -> Stack:
    def stand_still(head: VADHead, kept: Sequence[int]) -> None:
        decoder, regressions = getattr(head.transformer, name), getattr(head, f'{branches}reg_branches')
        for layer, branch in enumerate(regressions):
            if layer not in kept:
                regressions[layer] = Still(branch, decoder.center_code)

    beside = (f'{branches}cls_branches', f'{branches}reg_branches')
    return Stack(f'transformer.{name}.layers', beside, skip=stand_still)


def _view_edit(head: VADHead, size: Sequence[int]) -> dict[str, Any]:
    """Resample the cells' embedding and the encodings of rows and columns; what counts in cells scales with them."""
    (height, width), (new_height, new_width) = (head.bev_h, head.bev_w), size
    tensors = {'bev_embedding.weight': [[height, width], [new_height, new_width]]}
    attrs: dict[str, float] = {'bev_h': new_height, 'bev_w': new_width}
    for axis, old, new in (('row', height, new_height), ('col', width, new_width)):
        if hasattr(head.positional_encoding, f'{axis}_embed'):
            tensors[f'positional_encoding.{axis}_embed.weight'] = [[old], [new]]
            attrs[f'positional_encoding.{axis}_num_embed'] = new
    for side, old, new in ((0, width, new_width), (1, height, new_height)):
        center = head.transformer.rotate_center[side] * new / old
        attrs[f'transformer.rotate_center.{side}'] = int(center) if center == int(center) else center
    return {
        'type': 'grid',
        'tensors': {name: {'dim': 0, 'sizes': sizes} for name, sizes in tensors.items()},
        'attrs': attrs,
    }


def bev_grid_edit(model: nn.Module, size: Sequence[int]) -> dict[str, Any]:
    """The edit that gives the bird's-eye view ``size`` (rows, columns), neither more than before.

    Raises:
        EditError: The model has no such view, or it cannot have this size.
    """
    return grid_edit(model, VIEW, size)
