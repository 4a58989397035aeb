#!/usr/bin/env python
"""Compare with plain Torch-Pruning: the same networks, ratios and criterion, in one process.

    python tools/benchmarks/compare_torch_pruning.py [--quick] [--output FILE] [--repeats N]

For mmdet's ResNet-50, ViT-S and CIFAR's ResNet-56: seconds to slim, MACs, and the loss of trained networks right
after slimming. Then what happens to VAD. README.md, beside this file, has the numbers and says what they mean.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from unittest import mock

from vadslim.cli import Parser, UserError, at_least, run, say

EPOCH = 1400 // 64  # steps of training


@dataclass(frozen=True)
class Task:
    """A network of the comparison.

    Attributes:
        network: name of a class in ``networks``.
        size: pixels, for time and MACs.
        trained_at: pixels, where it is trained and its loss is taken.
        steps: of training.
        rate: the largest learning rate.
    """

    network: str
    size: int
    trained_at: int
    steps: int
    rate: float


TASKS = (
    Task('ResNet56', 32, 16, 6 * EPOCH, 2e-3),
    Task('ResNet50', 224, 32, 3 * EPOCH, 1e-3),
    Task('ViTS', 224, 32, 4 * EPOCH, 3e-4),
)


@dataclass
class Row:
    """One network, slimmed by one tool.

    Attributes:
        seconds: CPU time from the network to the slim one, median. Nothing here waits, so on an idle core with one
            thread the clock says the same; on a busy one it does not.
        check_seconds: what vadslim's check in float64 takes of them.
        macs: dense and slim, at ``Task.size``, batch 1.
        params: dense and slim.
        loss: cross-entropy on held-out pictures, dense and slim.
        accuracy: likewise.
        same_as_vadslim: how many of all tensors are equal to those of vadslim's slim network.
    """

    network: str
    ratio: float
    tool: str
    seconds: float
    check_seconds: float
    macs: tuple[int, int]
    params: tuple[int, int]
    loss: tuple[float, float]
    accuracy: tuple[float, float]
    same_as_vadslim: tuple[int, int]


class Check:
    """Times vadslim's check of what was traced, which is part of ``find_groups``."""

    def __init__(self) -> None:
        from vadslim.pruning import graph

        self.module, self.original, self.seconds = graph, graph.protect_wrong, 0.0

    def timed(self) -> mock._patch:
        return mock.patch.object(self.module, 'protect_wrong', self._timed)

    def _timed(self, *args):
        start = time.process_time()
        result = self.original(*args)
        self.seconds = time.process_time() - start
        return result


def by_vadslim(model, images, ratio):
    """The slim network; ``model`` stays as it is."""
    from vadslim.pruning import StructuredPruner, find_groups, make_structure, resize

    groups = find_groups(model, images)
    kept = StructuredPruner(ratio, importance='L2').plan(model, groups)
    return resize(model, make_structure(model, groups, kept))


def by_torch_pruning(model, images, ratio, counts_norms=False):
    """The slim network, which is ``model`` itself, pruned as Torch-Pruning's examples do it.

    Args:
        counts_norms: its default: scales of norms are part of a channel's magnitude. Without them it is that of
            vadslim's L2: the weights of convolutions and linear layers.
    """
    import torch_pruning as tp
    from networks import Attention
    from torch import nn

    attentions = [part for part in model.modules() if isinstance(part, Attention)]
    weights = {} if counts_norms else {'target_types': [nn.modules.conv._ConvNd, nn.Linear]}
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Unwrapped parameters')  # of the ViT: it guesses them right
        pruner = tp.pruner.MagnitudePruner(
            model,
            images,
            importance=tp.importance.MagnitudeImportance(p=2, **weights),
            pruning_ratio=ratio,
            global_pruning=False,
            ignored_layers=[model.classifier],
            num_heads={part.qkv: part.num_heads for part in attentions},
            in_channel_groups={},  # its own defaults are shared by all pruners of a process
            out_channel_groups={},
        )
    pruner.step()
    for part in attentions:
        part.num_heads = pruner.num_heads[part.qkv]
        part.head_dim = part.qkv.out_features // (3 * part.num_heads)
    return model


TOOLS: dict[str, Callable] = {
    'vadslim': by_vadslim,
    'Torch-Pruning': by_torch_pruning,
    'Torch-Pruning, norms count': lambda *args: by_torch_pruning(*args, counts_norms=True),
}


def compare(task: Task, tools: Mapping[str, Callable], ratios: Sequence[float], repeats: int, digits) -> list[Row]:
    """All tools on one network: one warm-up, then in turn, in the other order every second time."""
    import networks
    import torch

    from vadslim.analysis import count

    torch.manual_seed(0)
    trained = getattr(networks, task.network)(task.trained_at)
    networks.train(trained, digits, task.trained_at, task.steps, task.rate)
    same = task.size == task.trained_at
    model = trained if same else getattr(networks, task.network)(task.size).eval()
    dense = networks.evaluate(trained, digits, task.trained_at)
    images, small = torch.randn(1, 3, task.size, task.size), torch.randn(1, 3, task.trained_at, task.trained_at)
    before = count(model, lambda m: m(images))
    rows = []
    for ratio in ratios:
        seconds: dict[str, list[float]] = {name: [] for name in tools}
        checks, slim, check = [], {}, Check()
        for number in range(repeats + 1 if repeats > 1 else 1):  # the first is a warm-up, unless it is all there is
            for name in list(tools)[:: 1 if number % 2 else -1]:
                given = copy.deepcopy(model)
                with check.timed():
                    start = time.process_time()
                    slim[name] = tools[name](given, images, ratio)
                    spent = time.process_time() - start
                if number or repeats == 1:
                    seconds[name].append(spent)
                    checks += [check.seconds] if name == 'vadslim' else []
        pruned = slim if same else {name: tool(copy.deepcopy(trained), small, ratio) for name, tool in tools.items()}
        for name in tools:
            after = count(slim[name], lambda m: m(images))
            loss, accuracy = networks.evaluate(pruned[name], digits, task.trained_at)
            rows.append(
                Row(
                    task.network,
                    ratio,
                    name,
                    statistics.median(seconds[name]),
                    statistics.median(checks) if name == 'vadslim' else 0.0,
                    (before.macs, after.macs),
                    (before.params, after.params),
                    (dense[0], loss),
                    (dense[1], accuracy),
                    equal_tensors(pruned[name], pruned['vadslim']),
                )
            )
    return rows


def equal_tensors(model, other) -> tuple[int, int]:
    """How many tensors of two networks with the same names are equal, and how many there are."""
    import torch

    tensors, others = model.state_dict(), other.state_dict()
    return sum(torch.equal(tensors[name], others[name]) for name in tensors), len(tensors)


def table(rows: Sequence[Row]) -> str:
    """The comparison in Markdown."""
    lines = [
        '| network | ratio | by | s | of it the check | MACs left | loss | accuracy | equal tensors |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        dense, slim = row.macs
        cells = [
            row.network,
            f'{row.ratio:g}',
            row.tool,
            f'{row.seconds:.2f}',
            f'{row.check_seconds:.2f}' if row.check_seconds else '',
            f'{slim / 1e6:,.1f} of {dense / 1e6:,.1f} M ({slim / dense:.1%})',
            f'{row.loss[0]:.3f} -> {row.loss[1]:.3f}',
            f'{row.accuracy[0]:.1%} -> {row.accuracy[1]:.1%}',
            '{} of {}'.format(*row.same_as_vadslim) if row.tool != 'vadslim' else '',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main(argv: Sequence[str]) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help='small pictures, hardly any training, once: a smoke test')
    parser.add_argument('--repeats', type=at_least(1), default=5, metavar='N', help='times each is timed (5)')
    parser.add_argument('--output', type=Path, metavar='FILE', help='JSON of all numbers')
    args = parser.parse_args(argv)
    if args.output and (args.output.is_dir() or not args.output.absolute().parent.is_dir()):
        raise UserError(f'--output {args.output}: a file in a folder that exists is needed')

    import torch
    from networks import Digits
    from vad_cases import cases

    from vadslim.analysis.latency import device_name
    from vadslim.files import atomic_write

    tasks, tools, ratios, repeats = TASKS, TOOLS, (0.1, 0.3, 0.5), args.repeats
    if args.quick:
        tasks = [Task(task.network, 16, 16, 2, task.rate) for task in TASKS]
        tools, ratios, repeats = {name: TOOLS[name] for name in list(TOOLS)[:2]}, (0.5,), 1
    rows: list[Row] = []
    machine = {
        'device': device_name('cpu'),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'torch-pruning': version('torch-pruning'),
    }
    print(', '.join(f'{name} {value}' for name, value in machine.items()), flush=True)
    digits = Digits(64 if args.quick else None)
    for task in tasks:
        say(f'{time.strftime("%H:%M:%S")} {task.network}: training and slimming')
        rows += compare(task, tools, ratios, repeats, digits)
    print(table(rows), flush=True)
    outcomes = cases()
    for case in outcomes:
        print(f'\n{case.what}\n  Torch-Pruning: {case.torch_pruning}\n  vadslim: {case.vadslim}')
    if args.output:
        result = {
            'machine': machine,
            'repeats': repeats,
            'rows': [asdict(row) for row in rows],
            'vad': [asdict(case) for case in outcomes],
        }
        with atomic_write(args.output) as file:
            json.dump(result, file, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
