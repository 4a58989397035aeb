"""Small VADs with random weights, and what the proofs of their Groups share."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from vadslim.pruning import Group, ProofError, make_structure, mask, resize
from vadslim.pruning.proof import max_error, tensors_in
from vadslim.vad.detector import VAD
from vadslim.vad.example import Frame, run_example

RATIOS = (0.1, 0.3, 0.5, 0.7)


def grid(size: int) -> dict[str, object]:
    """Options for a bird's-eye view of size x size cells."""
    return {
        'pts_bbox_head.bev_h': size,
        'pts_bbox_head.bev_w': size,
        'pts_bbox_head.positional_encoding.row_num_embed': size,
        'pts_bbox_head.positional_encoding.col_num_embed': size,
        'pts_bbox_head.transformer.rotate_center': [size // 2, size // 2],
    }


SMALL = {**grid(20), 'use_grid_mask': False, 'pts_bbox_head.num_query': 40, 'pts_bbox_head.map_num_vec': 20}


def build_random(config: str, options: dict[str, object], everywhere: dict[str, object] | None = None) -> VAD:
    """A VAD with all weights random: as built, many biases are zero and hide wrong positions.

    Args:
        config: Name of a file under configs/VAD.
        options: Dotted keys of its model, and their values.
        everywhere: Keys to set wherever they stand in its model.
    """
    cfg = Config.fromfile(f'configs/VAD/{config}.py')
    cfg.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    set_everywhere(cfg.model, everywhere or {})
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or 'code_weights' in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith('running_var'):
                tensor.copy_(1 + noise.abs() / 10)
            elif tensor.dim() > 1:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                tensor.add_(noise / 10)
    return model.eval()


def set_everywhere(cfg: object, values: dict[str, object]) -> None:
    """Set some keys in all dicts inside a config."""
    if isinstance(cfg, list | tuple):
        for part in cfg:
            set_everywhere(part, values)
    elif isinstance(cfg, dict):
        cfg.update({key: value for key, value in values.items() if key in cfg})
        for part in cfg.values():
            set_everywhere(part, values)


def outputs(model: VAD, frames: Sequence[Frame]) -> list[dict[str, Tensor]]:
    """What a model says of each frame, without the view, whose width is that of its stream."""
    said = run_example(model, frames)
    return [{name: value for name, value in frame.items() if name != 'bev_embed'} for frame in said]


def some_units(group: Group, ratio: float) -> list[int]:
    """Kept units, scattered."""
    removed = int(ratio * group.num_units + 1e-6)
    order = np.random.default_rng(group.num_units).permutation(group.num_units)
    return sorted(order[removed:].tolist())


def check_against(
    module: nn.Module, wrong: Group, right: Group, kept: list[int], run: Callable[[nn.Module], object]
) -> None:
    """The slim copy after the wrong Group, the masked twin after the right one."""
    dense = copy.deepcopy(module).double()
    dense.eval()
    with torch.no_grad():
        slim = run(resize(dense, make_structure(dense, [wrong], {wrong.name: kept})))
        twin = run(mask(dense, [right], {right.name: kept}))
    error = max_error(list(tensors_in(slim)), list(tensors_in(twin)))
    if error > 1e-9:
        raise ProofError(f'{wrong.name}: {error:.3g}')
