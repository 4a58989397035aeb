"""Object queries and map vectors as units; a vector owns all its points. Off by default.

Nothing counts them but the embeddings: losses, matching and decoding take what the network says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from vadslim.pruning import Group, Slice, blocks, hide_keys, hides_units

from ..head import VADHead
from ..transformer_layer import VADMultiheadAttention


def query_groups(head: VADHead, prefix: str) -> list[Group]:
    """Object queries and map vectors: rows of their embeddings."""
    name, points = vector_embedding(head)
    units = {'query_embedding': 1, name: points}
    return [
        Group(
            f'{embedding}.queries',
            'query',
            count := getattr(head, embedding).num_embeddings // rows,
            (Slice(f'{embedding}.weight', 0, blocks(count, rows)),),
            on=False,
        ).prefixed(prefix)
        for embedding, rows in units.items()
    ]


def vector_embedding(head: VADHead) -> tuple[str, int]:
    """Which embedding the map vectors have, and its rows per vector."""
    if head.map_query_embedding is not None:
        return 'map_query_embedding', head.map_num_pts_per_vec
    return 'map_instance_embedding', 1


@hides_units(VADHead)
def hide_queries(head: VADHead, gone: Mapping[str, np.ndarray]) -> None:
    """Removed queries and vectors are no keys: for each other, for the modes of motion, for the car."""
    none = np.empty(0, np.int64)
    name, rows = vector_embedding(head)
    objects = gone.get('query_embedding.weight', none)
    vectors = gone.get(f'{name}.weight', none)[::rows] // rows
    transformer = head.transformer
    for stack, units, keys_per_unit in (
        (transformer.decoder, objects, 1),
        (head.motion_decoder, objects, head.motion_mode_query.num_embeddings),
        (head.ego_agent_decoder, objects, 1),
        (transformer.map_decoder, vectors, head.map_num_pts_per_vec),
        (head.motion_map_decoder, vectors, 1),
        (head.ego_map_decoder, vectors, 1),
    ):
        if units.size:
            keys = units[:, None] * keys_per_unit + np.arange(keys_per_unit)
            _hide(stack, keys.flatten())


def _hide(stack: nn.Module, keys: np.ndarray) -> None:
    for module in stack.modules():
        if isinstance(module, VADMultiheadAttention):
            hide_keys(module.attn, keys)
