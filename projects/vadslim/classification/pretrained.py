"""Weights of other trainings: what fits by name and shape is copied from a local file, the rest stays as it is."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import StrPath, check_file, load_checkpoint
from ..cli import UserError

QKV = 'blocks.0.attn.qkv.weight'
#: A ViT's first queries, keys and values are initialised with a deviation of 0.02; of ImageNet's training it is 0.06.
TRAINED_STD = 0.05


@dataclass(frozen=True)
class Loaded:
    """What became of the tensors of a network and of a file.

    Attributes:
        copied: tensors that the network has from the file.
        left: those of the network that it has not: name -> why.
        unused: those of the file whose names the network does not know.
    """

    copied: list[str]
    left: dict[str, str]
    unused: list[str]

    def __str__(self) -> str:
        """One line."""
        text = f'{len(self.copied)} of {len(self.copied) + len(self.left)} tensors copied'
        if self.left:
            text += f'; left as they were: {_some([f"{name} ({why})" for name, why in self.left.items()])}'
        return text + (f'; the file also has {_some(self.unused)}' if self.unused else '')


def load_pretrained(model: nn.Module, path: StrPath, trained_std: float = TRAINED_STD) -> Loaded:
    """Copy the tensors whose name and shape are those of the network.

    Of torchvision's ResNets the classifier stays behind where the classes are others, and the 7 x 7 stem where the
    network's is 3 x 3; of timm's ViTs the patches, their positions and the head, where their sizes are others.

    Args:
        model: is written to.
        path: a local ``.safetensors`` file, or a checkpoint: a state dict, alone or under ``state_dict`` or ``model``,
            as torchvision, timm and MMEngine write them; names may begin with ``module.``.
        trained_std: a ViT's first queries, keys and values in the file must deviate so much: less is what random
            weights do, which some have taken for trained ones. 0: anything goes.

    Raises:
        UserError: nothing fits, the weights are random, or safetensors is not installed.
        CheckpointError: the file cannot be read.
    """
    file = {name.removeprefix('module.'): value for name, value in read_tensors(path).items()}
    own = model.state_dict()
    left = {}
    for name, tensor in own.items():
        if name not in file:
            left[name] = 'not in the file'
        elif file[name].shape != tensor.shape:
            left[name] = f'{_shape(tensor)}, in the file {_shape(file[name])}'
    copied = [name for name in own if name not in left]
    if not copied:
        ours, theirs = (_some([f'{name} ({_shape(value)})' for name, value in side.items()]) for side in (own, file))
        raise UserError(f'{path}: no tensor fits by name and shape: the network has {ours}, the file {theirs}')
    if QKV in copied and not (deviation := float(file[QKV].float().std())) >= trained_std:
        raise UserError(
            f'{path}: these are random weights: {QKV} deviates by {deviation:.3f}, that of a trained ViT by 0.06, at '
            f'least {trained_std}'
        )
    with torch.no_grad():
        for name in copied:
            own[name].copy_(file[name])
    return Loaded(copied, left, [name for name in file if name not in own])


def read_tensors(path: StrPath) -> dict[str, Tensor]:
    """Read the state dict that a file holds.

    Raises:
        UserError, CheckpointError: it holds none, or cannot be read.
    """
    if Path(path).suffix == '.safetensors':
        return _read_safetensors(check_file(path))
    content = load_checkpoint(path)
    state = next((content[key] for key in ('state_dict', 'model') if isinstance(content.get(key), dict)), content)
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f'{path}: holds no state dict; its keys are {_some(list(content))}')
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f'{path}: reading it needs safetensors (pip install safetensors)') from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f'{path}: is no safetensors file, or a damaged one ({error})') from error


def _shape(tensor: Tensor) -> str:
    return ' x '.join(map(str, tensor.shape)) or 'a number'


def _some(names: list, count: int = 4) -> str:
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(map(str, names[:count])) + more
