"""How long a forward takes: medians over repetitions, with the device and the threads they hold for."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one call.

    Attributes:
        median_ms: median over the repetitions, in milliseconds.
        min_ms, max_ms: the fastest and the slowest repetition.
        repeats: number of timed calls; ``warmup`` calls before them were not timed.
        threads: torch's intra-op threads on the CPU.
        device: 'cpu' with the processor's name, or the GPU's name.
        modules: dotted module name -> median milliseconds per run; only :func:`measure_modules` fills it.
    """

    median_ms: float
    min_ms: float
    max_ms: float
    repeats: int
    warmup: int
    threads: int
    device: str
    modules: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f'{self.median_ms:.1f} ms (median of {self.repeats}, {self.where})'

    @property
    def where(self) -> str:
        """The device and, on a CPU, the number of threads."""
        threads = f', {self.threads} thread{"s" if self.threads != 1 else ""}' if 'cpu' in self.device else ''
        return f'{self.device}{threads}'

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(run: Callable[[], Any], repeats: int = 5, warmup: int = 1, device: str | torch.device = 'cpu') -> Latency:
    """Times ``run()`` without gradients.

    Args:
        run: one call of what is to be measured; waiting for the device is done here.
        repeats: number of timed calls, at least 1.
        warmup: number of calls before them that are not timed.
        device: where ``run`` computes; a CUDA device is synchronised around every call.

    Raises:
        ValueError: for ``repeats`` below 1 or a negative ``warmup``.
    """
    return measure_in_turn([run], repeats, warmup, device)[0]


def measure_in_turn(
    runs: Sequence[Callable[[], Any]],
    repeats: int = 5,
    warmup: int = 1,
    device: str | torch.device = 'cpu',
) -> list[Latency]:
    """Times several runs, one after the other in each repetition, so that a busy machine slows all of them alike.

    Arguments and errors as :func:`measure`.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f'repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}')
    device = torch.device(device)
    times: list[list[float]] = [[] for _ in runs]
    with torch.no_grad():
        for i in range(warmup + repeats):
            for run, spent in zip(runs, times):
                start = now(device)
                run()
                if i >= warmup:
                    spent.append((now(device) - start) * 1000)
    threads, name = torch.get_num_threads(), device_name(device)
    return [Latency(statistics.median(t), min(t), max(t), repeats, warmup, threads, name) for t in times]


def measure_modules(
    model: nn.Module,
    run: Callable[[nn.Module], Any],
    names: Iterable[str],
    repeats: int = 5,
    warmup: int = 1,
) -> Latency:
    """Times ``run(model)`` and the named modules inside it.

    A module that runs several times is summed over its calls; one that is not called has 0 ms.

    Raises:
        ValueError: when a name is not a module of the model.
    """
    modules = dict(model.named_modules())
    names = list(names)
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(f'no module named {missing[0]!r} in {type(model).__name__}')
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    spent: dict[str, list[float]] = {name: [] for name in names}
    started: list[float] = []
    handles = []

    def begin(*_: Any) -> None:
        started.append(now(device))

    def end(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            spent[name][-1] += (now(device) - started.pop()) * 1000

        return hook

    for name in names:
        handles.append(modules[name].register_forward_pre_hook(begin))
        handles.append(modules[name].register_forward_hook(end(name), always_call=True))

    def once() -> None:
        for times in spent.values():
            times.append(0.0)
        run(model)

    try:
        total = measure(once, repeats, warmup, device)
    finally:
        for handle in handles:
            handle.remove()
    return Latency(**{**total.to_dict(), 'modules': {n: statistics.median(t[warmup:]) for n, t in spent.items()}})


def device_name(device: str | torch.device) -> str:
    """The processor or GPU behind a torch device, for people."""
    device = torch.device(device)
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{device.type} {_processor() or platform.processor() or platform.machine()}'.strip()


@lru_cache
def _processor() -> str:
    """The processor's name where Linux tells it, else ''."""
    try:
        text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        return ''
    found = re.search(r'^model name\s*:\s*(.+)$', text, re.MULTILINE)
    return ' '.join(found[1].split()) if found else ''


def now(device: torch.device) -> float:
    """Seconds of a clock, read when a device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()
