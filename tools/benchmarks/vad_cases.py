"""What plain Torch-Pruning does to VAD, tried on the network itself, and what vadslim does there."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from mmengine import Config
from torch import Tensor, nn

from vadslim.pruning import Group, StructuredPruner, check_group, find_groups, make_structure, resize
from vadslim.registry import MODELS
from vadslim.slimming.network import load_network

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'VAD'
RATIO = 0.3
DEFORMABLE = 'pts_bbox_head.transformer.encoder.layers.0.attentions.1'


@dataclass(frozen=True)
class Case:
    """What was asked for, and what came of it: one line each."""

    what: str
    torch_pruning: str
    vadslim: str


def cases() -> list[Case]:
    """Every case, on VAD-nano with random weights; the last on VAD-tiny's image backbone."""
    network = load_network(CONFIGS / 'VAD_nano_synthetic.py', [], None, 0, 'cpu')
    model, run = network.model, network.examples[0].run
    with torch.no_grad():
        for tensor in model.parameters():  # some start at zero, and hide what feeds them
            tensor += 0.05 * torch.randn_like(tensor)
    head_inputs = inputs_of(model, 'pts_bbox_head', run)
    groups = find_groups(model, run)
    whole = slim_by_vadslim(model, groups, run)

    def alone(what: str, path: str, targets: Sequence[str]) -> Case:
        return Case(what, pruned_alone(model, run, path), slim_by_vadslim(model, groups, run, targets))

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # which parameters it takes for what
        return [
            Case(
                'the detector, with example_inputs=images as documented',
                outcome(lambda: tp.DependencyGraph().build_dependency(copy.deepcopy(model), head_inputs[0][0])),
                whole,
            ),
            Case(
                'the detector, with a forward_fn that does its forward',
                outcome(lambda: pruner_of(copy.deepcopy(model), lambda m: run(m))),
                whole,
            ),
            Case(
                'the head (pts_bbox_head)',
                outcome(lambda: pruner_of(copy.deepcopy(model.pts_bbox_head), forward_with(head_inputs))),
                'slimmed with the detector',
            ),
            alone('the deformable cross attention of the encoder', DEFORMABLE, [f'{DEFORMABLE}*']),
            alone('the image backbone, then the detector', 'img_backbone', ['img_backbone*']),
            alone('the neck, then the detector', 'img_neck', ['img_neck*', 'streams.image']),
            frozen_stem(),
        ]


def outcome(action: Callable[[], Any]) -> str:
    """What an action says, or the error that it ends in."""
    try:
        return str(action())
    except Exception as error:  # whatever happens inside a foreign tool is the result
        return f'{type(error).__name__}: {" ".join(str(error).split())}'


def pruner_of(model: nn.Module, forward: Callable[[nn.Module], Any]) -> Any:
    """A pruner of Torch-Pruning that has traced one forward; all outputs that have gradients count."""
    return tp.pruner.MagnitudePruner(
        model,
        (),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        forward_fn=lambda m, _: list(with_gradients(forward(m))),
        num_heads={},
        in_channel_groups={},
        out_channel_groups={},
    )


def with_gradients(value: Any) -> Iterator[Tensor]:
    """The tensors in nested outputs that have a gradient."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from with_gradients(part)


def inputs_of(model: nn.Module, path: str, run: Callable[[nn.Module], Any]) -> tuple[tuple, dict]:
    """What a part of the model is called with, the last time in one run."""
    calls: list[tuple[tuple, dict]] = []
    handle = model.get_submodule(path).register_forward_pre_hook(
        lambda part, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        run(model)
    handle.remove()
    return calls[-1]


def forward_with(inputs: tuple[tuple, dict]) -> Callable[[nn.Module], Any]:
    return lambda part: part(*inputs[0], **inputs[1])


def pruned_alone(model: nn.Module, run: Callable[[nn.Module], Any], path: str) -> str:
    """Prune one part of the detector by Torch-Pruning, and run the detector."""
    twin, inputs = copy.deepcopy(model), inputs_of(model, path, run)
    part = twin.get_submodule(path)
    before = {name: tuple(tensor.shape) for name, tensor in part.named_parameters()}
    pruned = outcome(lambda: pruner_of(part, forward_with(inputs)).step())
    changes = [
        f'{name} {list(before[name])} -> {list(tensor.shape)}'
        for name, tensor in part.named_parameters()
        if tensor.dim() > 1 and tuple(tensor.shape) != before[name]
    ]
    ran = outcome(lambda: 'runs' if run(twin) else '')
    told = f'pruned without an error ({"; ".join(changes[-3:])})' if pruned == 'None' else pruned
    return f'{told}; the forward: {ran}'


def slim_by_vadslim(
    model: nn.Module, groups: Sequence[Group], run: Callable[[nn.Module], Any], targets: Sequence[str] | None = None
) -> str:
    """Slim the units of the detector, those on by default or others, and compare with the masked twin."""
    kept = StructuredPruner(RATIO, targets=targets).plan(model, groups)
    fewer = [group for group in groups if len(kept[group.name]) < group.num_units]
    with torch.no_grad():
        run(resize(model, make_structure(model, groups, kept)))
    error = check_group(model, fewer, {group.name: kept[group.name] for group in fewer}, run)
    return f'{len(fewer)} Groups lose units, the detector runs; slim and masked differ by {error:.0e} in float64'


def frozen_stem() -> Case:
    """VAD-tiny's backbone, whose stem and first stage are frozen and whose norms do not train."""
    config = Config.fromfile(CONFIGS / 'VAD_tiny_stage_2.py').model.img_backbone
    torch.manual_seed(0)
    model = MODELS.build({**config, 'init_cfg': None})
    model.eval()  # returns nothing
    images, convs = torch.randn(1, 3, 64, 64), [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    twin = copy.deepcopy(model)
    pruner = pruner_of(twin, lambda m: m(images))
    pruner.step()
    known = sum(isinstance(part, nn.Conv2d) for part in pruner.DG.module2node)
    now = {name for name, tensor in twin.named_parameters() if tensor.requires_grad}
    groups = find_groups(model, images)
    frozen = sum(group.protected.startswith('frozen: ') for group in groups)
    after = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    return Case(
        "VAD-tiny's image backbone, its stem and first stage frozen",
        f'no error; {known} of {len(convs)} convolutions are in its graph, the others stay whole without a word; '
        f'{len(now - trained)} of {len(list(model.parameters())) - len(trained)} frozen parameters train now',
        f'{frozen} of {len(groups)} Groups are protected as frozen, and say so (allow_frozen=True lets them go); '
        f'{len(after ^ trained)} parameters have another requires_grad than before',
    )
