"""How the time of a layer changes with its widths: measured on a grid, on the device at hand, kept in a file."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vadslim.analysis.latency import device_name
from vadslim.analysis.layers import Call, stand_in
from vadslim.checkpoint import atomic_write

FORMAT = 1
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
BACKENDS = ('pytorch', 'onnxruntime')
Runner = Callable[[], Any]


class LatencyTableError(RuntimeError):
    """A table that cannot be read, or a backend that is not there; the message is one line."""


@dataclass(frozen=True)
class Grid:
    """Times of one layer over its widths, smoothed so that a wider layer never takes less.

    Attributes:
        widths_in, widths_out: rising. A coupled layer has one width: ``widths_in`` is then a single one.
        ms: (len(widths_in), len(widths_out)).
    """

    widths_in: np.ndarray
    widths_out: np.ndarray
    ms: np.ndarray

    def at(self, width_in: float, width_out: float) -> float:
        """Milliseconds at widths between the grid's, bilinear; at its border outside."""
        at_out = [np.interp(width_out, self.widths_out, row) for row in self.ms]
        return float(np.interp(width_in, self.widths_in, at_out))


class LatencyTable:
    """Times of layers, measured when they are first asked for.

    Args:
        path: a JSON file that keeps them, per machine (device, threads, backend and its version, number type);
            None keeps them in memory.
        device: where to measure.
        backend: 'pytorch' or 'onnxruntime' (on the CPU).
        dtype: number type of PyTorch's layers.
        repeats: timed calls per point at least; the fastest counts.

    Raises:
        LatencyTableError: The file is not such a table, or the backend is not installed.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        device: str | torch.device = 'cpu',
        backend: str = 'pytorch',
        dtype: torch.dtype = torch.float32,
        repeats: int = 3,
    ) -> None:
        if backend not in BACKENDS:
            raise LatencyTableError(f'backend {backend!r} is not known; there are {", ".join(BACKENDS)}')
        if backend == 'onnxruntime' and torch.device(device).type != 'cpu':
            raise LatencyTableError(f'backend onnxruntime measures on the CPU, not on {device}')
        self.path = None if path is None else Path(path)
        self.device, self.backend, self.dtype, self.repeats = torch.device(device), backend, dtype, repeats
        version = torch.__version__ if backend == 'pytorch' else _onnxruntime().__version__
        number = str(dtype).removeprefix('torch.')
        self.machine = f'{device_name(self.device)}, {torch.get_num_threads()} threads, {backend} {version}, {number}'
        self.measured = 0
        self._tables = _read(self.path)

    def grid(self, call: Call) -> Grid:
        """The times of a layer; measured now, and written to the file, unless they are known."""
        rows, key = self._tables.setdefault(self.machine, {}), _key(call)
        if key not in rows:
            rows[key] = self._measure(call)
            self.measured += 1
            self._save()
        entry = rows[key]
        return Grid(np.array(entry['in']), np.array(entry['out']), monotone(np.array(entry['ms'])))

    def knows(self, call: Call) -> bool:
        """Whether a layer was measured on this machine already."""
        return _key(call) in self._tables.get(self.machine, {})

    def _measure(self, call: Call) -> dict[str, Any]:
        widths_out = _grid(call.width_out, call.step)
        if call.coupled:
            ratio = call.width_in / call.width_out
            times = [[self._time(call, round(width * ratio), width) for width in widths_out]]
            return {'in': [call.width_in], 'out': widths_out, 'ms': times}
        widths_in = _grid(call.width_in)
        times = [[self._time(call, one, other) for other in widths_out] for one in widths_in]
        return {'in': widths_in, 'out': widths_out, 'ms': times}

    def _time(self, call: Call, width_in: int, width_out: int) -> float:
        module, x = stand_in(call, width_in, width_out)
        if self.backend == 'onnxruntime':
            return fastest(_onnx_runner(module, x), self.repeats)
        module, x = module.to(self.device, self.dtype), x.to(self.device, self.dtype)
        with torch.no_grad():
            return fastest(lambda: module(x), self.repeats, self.device)

    def _save(self) -> None:
        if self.path is None:
            return
        for machine, rows in _read(self.path).items():  # what others wrote in the meantime
            self._tables.setdefault(machine, {}).update(
                {key: row for key, row in rows.items() if key not in self._tables[machine]}
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            json.dump({'format': FORMAT, 'tables': self._tables}, file, indent=1)


def monotone(times: np.ndarray) -> np.ndarray:
    """The nearest table (least squares) that rises along both axes: isotonic regression.

    Alternating projections after Dykstra (1983), each axis by pooling adjacent violators.

    Args:
        times: (rows, columns).
    """
    result, corrections = times.astype(float), [np.zeros(times.shape), np.zeros(times.shape)]
    for _ in range(50):
        before = result
        for axis in (0, 1):
            shifted = result + corrections[axis]
            result = np.apply_along_axis(_pooled, axis, shifted)
            corrections[axis] = shifted - result
        if np.allclose(before, result, rtol=1e-9, atol=0):
            break
    # what is left of the limit: a last bit of falling
    return np.maximum.accumulate(np.maximum.accumulate(result, 0), 1)


def _pooled(values: np.ndarray) -> np.ndarray:
    """The nearest rising sequence: neighbours that fall are replaced by their mean."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    return np.concatenate([np.full(size, mean) for mean, size in blocks])


def fastest(run: Runner, repeats: int, device: torch.device | None = None, budget_ms: float = 20.0) -> float:
    """Milliseconds of the fastest call: what disturbs a measurement only ever adds to it.

    Args:
        run: what to time; called once before.
        repeats: timed calls at least; quick ones are repeated for ``budget_ms``, at most 100 times.
        device: synchronised around every call if it is a CUDA device.
    """
    cuda = device is not None and device.type == 'cuda'
    times: list[float] = []
    for _ in range(101):
        if cuda:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1000)
        if len(times) > repeats and sum(times[1:]) > budget_ms:
            break
    return min(times[1:])


def _key(call: Call) -> str:
    return f'{call.kind} {call.width_in} -> {call.width_out} {call.sizes}'


def _grid(width: int, step: int = 1) -> list[int]:
    """Widths to measure, at most the dense one; narrow layers (images) have one."""
    if width < 8 * step and step == 1:
        return [width]
    return sorted({max(step, round(width * fraction / step) * step) for fraction in FRACTIONS})


def _read(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        tables: dict[str, dict[str, Any]] = data['tables']
        sound = data['format'] == FORMAT and all(
            np.array(row['ms'], float).shape == (len(row['in']), len(row['out'])) and np.min(row['ms']) > 0
            for rows in tables.values()
            for row in rows.values()
        )
    except OSError as error:
        raise LatencyTableError(f'latency table {path}: {error.strerror or error}') from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise LatencyTableError(f'latency table {path}: not a table of this version; name another file, or delete it')
    return tables


def _onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401  the export needs it
        import onnxruntime
    except ImportError as error:
        raise LatencyTableError(
            f'ONNX Runtime is not installed ({error}); type pip install onnxruntime onnx, or measure with PyTorch'
        ) from None
    return onnxruntime


def _onnx_runner(module: nn.Module, x: Tensor) -> Runner:
    """A call of a layer that was exported to ONNX."""
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # the other exporter needs another package
        path = str(Path(folder, 'layer.onnx'))
        torch.onnx.export(module, (x,), path, input_names=['x'], dynamo=False)
        session = runtime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    feed = {'x': x.numpy()}
    return lambda: session.run(None, feed)
