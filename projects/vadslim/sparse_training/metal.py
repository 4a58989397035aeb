"""What a level's network measures when its dead units are removed for real."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from vadslim.analysis import count, count_params, find_example
from vadslim.sparse import remove_dead


def slim_size(cfg: Config, checkpoint: Path) -> dict[str, int] | None:
    """Parameters and MACs of a masked network, and of the smaller one with equal outputs.

    Args:
        cfg: of the dense network.
        checkpoint: with masked weights.

    Returns:
        ``params``, ``macs``, ``params_slim``, ``macs_slim``; None of a network that declares no example to trace.
    """
    from vadslim.sparse_training.level import build, load

    model = build(cfg)
    load(model, checkpoint)
    model.eval()
    example = find_example(model, cfg, small=True)
    if example is None:
        return None
    removal = remove_dead(model, example.run)
    sizes = {}
    for suffix, network in (('', model), ('_slim', removal.model)):
        sizes[f'params{suffix}'] = count_params(network)
        sizes[f'macs{suffix}'] = int(count(network, example.run, compute=False).macs)
    return sizes
