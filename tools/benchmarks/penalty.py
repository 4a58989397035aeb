#!/usr/bin/env python
"""What RSST adds to a training step: the growing penalty and the hard mask, beside plain training.

    python tools/benchmarks/penalty.py [--networks resnet20 vit_small] [--repeats 21] [--output numbers.json]

One network takes pairs of steps on the same batch, one by the plain optimizer and one with ``Penalty`` and ``HardMask``
attached to it; every second pair in the other order. Masks are RSST's cases at 50 % and 20 % of the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import quantile_test
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from vadslim.analysis.latency import device_name, now
from vadslim.classification import CIFARResNet, VisionTransformer
from vadslim.cli import Parser, UserError, at_least, fraction, run
from vadslim.sparse import (
    VIT_LAYERS,
    Cases,
    HardMask,
    Penalty,
    cases,
    dense_masks,
    density,
    imp,
    penalty_factor,
    prunable_weights,
    refill,
    row_sums,
    start,
)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    'resnet20': lambda: CIFARResNet(20),
    'vit_small': lambda: VisionTransformer('small'),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    'SGD': lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4),
    'AdamW': lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05),
}
HOOKS = ('register_step_pre_hook', 'register_step_post_hook')


def clock(device: torch.device) -> float:
    """Seconds; of this process's CPU time where that is what computes, so that others on the machine count less."""
    return now(device) if device.type == 'cuda' else time.process_time()


def weights_of(name: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """The prunable weights, as RSST takes them."""
    return prunable_weights(model, (nn.Linear,), VIT_LAYERS, ()) if 'vit' in name else prunable_weights(model)


def rsst_cases(weights: dict[str, nn.Parameter], remaining: float) -> Cases:
    """A level of RSST: from dense weights, global magnitude pruning, then as many whole rows with the largest sums."""
    current = imp(weights, dense_masks(weights), 1 - remaining)
    return cases(current, refill(current, row_sums(weights, current)))


class Training:
    """A network that trains plainly or sparsely, step by step.

    Args:
        model: trains on its device.
        optimizer: name in OPTIMIZERS.
        weights: its prunable weights.
        case: RSST's cases of them.

    Attributes:
        inside: seconds that the hooks of the last step took (not on a GPU, which works on while they return).
    """

    def __init__(self, model: nn.Module, optimizer: str, weights: dict[str, nn.Parameter], case: Cases) -> None:
        self.model, self.inside = model.train(), 0.0
        self.optimizer = OPTIMIZERS[optimizer](model.parameters())
        with torch.no_grad():
            for name, value in start(weights, case).items():
                weights[name].copy_(value)
        self.penalty, self.mask = Penalty(weights, case.penalised), HardMask(weights, case.active)

    def _attach(self) -> list[RemovableHandle]:
        """The penalty before and the mask after the optimizer's step, each between two looks at the clock."""
        handles = []
        for hook, attach in zip(HOOKS, (self.penalty.attach, self.mask.attach)):
            register = getattr(self.optimizer, hook)  # hooks run in the order in which they came
            handles += [register(lambda *_: self._clock(-1)), attach(self.optimizer)]
            handles += [register(lambda *_: self._clock(1))]
        return handles

    def _clock(self, sign: int) -> None:
        self.inside += sign * time.process_time()

    def step(self, inputs: torch.Tensor, labels: torch.Tensor, progress: float | None = None) -> float:
        """Train on one batch, with the penalty of this part of the level or (None) plainly; the seconds it took."""
        self.inside = 0.0
        handles = [] if progress is None else self._attach()
        begin = clock(inputs.device)
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(inputs), labels).backward()
        if progress is not None:
            self.penalty.factor = penalty_factor('exp_custom_exponents', progress)
        self.optimizer.step()
        seconds = clock(inputs.device) - begin
        for handle in handles:
            handle.remove()
        return seconds


def compare(name: str, optimizer: str, remaining: float, args: argparse.Namespace) -> dict[str, Any]:
    """Time one network with one optimizer.

    Returns:
        Milliseconds of both (medians), and by how many percent the step with penalty takes longer: the median over the
        pairs with its 95 % confidence interval (order statistics), and what the hooks alone took of a plain step.
    """
    torch.manual_seed(0)
    model = NETWORKS[name]().to(args.device)
    inputs = torch.randn(args.batch, 3, 32, 32, device=args.device)
    labels = torch.randint(10, (args.batch,), device=args.device)
    weights = weights_of(name, model)
    case = rsst_cases(weights, remaining)
    training = Training(model, optimizer, weights, case)
    pairs, inside = [], []
    progress = track(
        range(-args.warmup, args.repeats),
        f'{name}, {optimizer}, {remaining:.0%}',
        console=Console(stderr=True),
        transient=True,
    )
    for i in progress:
        seconds = [0.0, 0.0]
        for sparse in (0, 1) if i % 2 else (1, 0):
            seconds[sparse] = training.step(inputs, labels, max(i, 0) / args.repeats if sparse else None)
            if sparse and i >= 0:
                inside.append(training.inside)
        if i >= 0:
            pairs.append(seconds)
    percent = [100 * (sparse / plain - 1) for plain, sparse in pairs]
    interval = quantile_test(percent, q=statistics.median(percent), p=0.5).confidence_interval()
    plain, sparse = (statistics.median(column) for column in zip(*pairs))
    return {
        'network': name,
        'optimizer': optimizer,
        'remaining': remaining,
        'penalised': density(case.penalised),
        'masked': density(case.removed),
        'plain_ms': 1000 * plain,
        'sparse_ms': 1000 * sparse,
        'percent': statistics.median(percent),
        'interval': [float(interval.low), float(interval.high)],
        'hooks_percent': None if args.device.type == 'cuda' else 100 * statistics.median(inside) / plain,
    }


COLUMNS = ['network', 'optimizer', 'remaining', 'penalised', 'masked', 'plain ms', 'with penalty ms', 'more', 'hooks']


def line(row: dict[str, Any]) -> str:
    """A row in Markdown."""
    low, high = row['interval']
    cells = [row['network'], row['optimizer'], *(f'{row[name]:.0%}' for name in ('remaining', 'penalised', 'masked'))]
    cells += [f'{row["plain_ms"]:.1f}', f'{row["sparse_ms"]:.1f}', f'{row["percent"]:.2f} % ({low:.2f} to {high:.2f})']
    cells += ['' if row['hooks_percent'] is None else f'{row["hooks_percent"]:.2f} %']
    return f'| {" | ".join(cells)} |'


def main(argv: Sequence[str]) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=list(NETWORKS), help='(both)')
    parser.add_argument('--optimizers', nargs='+', choices=OPTIMIZERS, default=list(OPTIMIZERS), help='(both)')
    parser.add_argument('--remaining', nargs='+', type=fraction, default=[0.5, 0.2], help='of the weights (0.5 0.2)')
    parser.add_argument('--batch', type=at_least(1), default=32, help='images of 32 x 32 (32)')
    parser.add_argument('--repeats', type=at_least(6), default=21, help='pairs of steps (21)')
    parser.add_argument('--warmup', type=at_least(0), default=3, help='pairs before them that are not timed (3)')
    parser.add_argument('--threads', type=at_least(1), default=1, help="torch's threads (1)")
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'), help='cpu or cuda (cpu)')
    parser.add_argument('--output', type=Path, help='JSON file of all numbers')
    args = parser.parse_args(argv)
    if args.output and not args.output.absolute().parent.is_dir():
        raise UserError(f'--output {args.output}: there is no such folder')
    torch.set_num_threads(args.threads)
    where = f'{device_name(args.device)}, {args.threads} thread(s), torch {torch.__version__}'
    print(f'{where}, batch {args.batch}, {args.repeats} pairs\n\n| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
    rows = []
    for name, optimizer, remaining in itertools.product(args.networks, args.optimizers, args.remaining):
        rows.append(compare(name, optimizer, remaining, args))
        print(line(rows[-1]), flush=True)
    if args.output:
        args.output.write_text(json.dumps({'where': where, 'batch': args.batch, 'rows': rows}, indent=1))


if __name__ == '__main__':
    sys.exit(run(main))
