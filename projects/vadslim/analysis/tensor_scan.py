"""What the numbers of a checkpoint say without loading it: zeros, rows and columns of zeros, values that are none.

Streams the files that headers point to, a piece at a time per worker. No torch; numpy is imported by the first scan.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .headers import BITS, Entry, HeaderError, Headers

if TYPE_CHECKING:
    import numpy as np

PIECE = 1 << 20  # bytes: what is read is still in a core's cache when it is counted
HEAD = 64  # elements of a row that show in most cases that it is not all zeros
POLL = 0.1  # seconds from one call of ``progress`` to the next

#: float types -> bytes of a number, and the least non-finite one: of its bits as an integer, doubled, so that the sign
#: is gone
_FLOATS = {
    'F8_E4M3': (1, 0xFE),
    'F8_E5M2': (1, 0xF8),
    'F16': (2, 0xF800),
    'BF16': (2, 0xFF00),
    'F32': (4, 0xFF000000),
    'F64': (8, 0xFFE0000000000000),
    'C64': (4, 0xFF000000),
    'C128': (8, 0xFFE0000000000000),
}
#: types without -0 -> their NaN
_NAN = {'F8_E4M3FNUZ': 0x80, 'F8_E5M2FNUZ': 0x80, 'F8_E8M0': 0xFF}


@dataclass(frozen=True)
class Scan:
    """What one tensor holds. Zeros are exact; -0.0 is one. A quantised tensor's are those of its stored integers.

    Attributes:
        elements: how many.
        zeros: how many of them.
        rows: indices of the first dimension, a layer's outputs. Of one dimension, elements are rows.
        zero_rows: those with zeros only. What has no elements has none.
        columns: indices of the second dimension, a layer's inputs; 0 if there is none.
        zero_columns: those with zeros only.
        nonfinite: NaN and infinities; None if they were not looked for.
    """

    elements: int
    zeros: int
    rows: int
    zero_rows: int
    columns: int
    zero_columns: int
    nonfinite: int | None = None


def scan(
    headers: Headers,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: bool = False,
) -> dict[str, Scan]:
    """Count the zeros of all tensors; tied ones are read once.

    Memory: ``PIECE`` bytes per worker and a few copies of it, and a byte for each row and column.

    Args:
        headers: of :func:`read_headers`; their files are read again.
        workers: threads; as many as there are cores by default.
        progress: called with (bytes done, bytes of all), by the caller's thread, and at the end.
        check: count non-finite values, too.

    Raises:
        HeaderError: a file cannot be read or is shorter now, or a tensor's numbers do not lie in it as they are.
    """
    if workers is not None and workers < 1:
        raise ValueError(f'workers is {workers}; at least 1')
    if headers.big_endian:
        raise HeaderError(f'{headers.path}: a machine wrote it whose numbers have the highest byte first; not counted')
    counts: dict[tuple[Any, ...], _Count] = {}
    of_name = {}
    for name, entry in headers.tensors.items():
        key = (entry.storage, entry.offset, entry.shape, entry.dtype, entry.strides)
        if key not in counts:
            counts[key] = _Count(name, entry, check)
        of_name[name] = counts[key]
    works = sorted((count for count in counts.values() if count.entry.count), key=lambda count: count.place)
    total = sum(count.bits for count in works) // 8
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = min(workers or cores, 1 + total // (4 * PIECE))
    with contextlib.ExitStack() as stack:
        _Crew(_pieces(works, stack)).work(workers, (lambda done: progress(done, total)) if progress else None)
    return {name: count.result() for name, count in of_name.items()}


# --- the workers -------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """Indices ``start`` to ``start + n`` of axis ``len(outer)``, all of what is inside them, at one index outside."""

    owner: _Count
    file: int
    outer: tuple[int, ...]
    start: int
    n: int
    first: int  # element, from the tensor's first
    span: int  # elements from the first to the last


def _pieces(works: list[_Count], stack: contextlib.ExitStack) -> Iterator[_Piece]:
    """All there is to read, in the order of the files."""
    for name, group in itertools.groupby(works, key=lambda count: count.entry.storage[0]):
        try:
            file = os.open(name, os.O_RDONLY)
        except OSError as error:
            raise HeaderError(f'{name}: cannot be read: {error.strerror}') from error
        stack.callback(os.close, file)
        for count in group:
            yield from count.pieces(file)


class _Crew:
    """Threads that count pieces. NumPy and reads leave the interpreter to the others."""

    def __init__(self, pieces: Iterator[_Piece]) -> None:
        self.pieces, self.lock = pieces, threading.Lock()
        self.done, self.stopped = 0, False  # bits

    def work(self, workers: int, progress: Callable[[int], None] | None) -> None:
        """Count all pieces; on an error or Ctrl-C all stop at their next piece, and are waited for."""
        # Not Thread.join(timeout): interrupted by Ctrl-C it takes a thread that runs for one that has ended (before
        # Python 3.13), and the files would be closed under it.
        with ThreadPoolExecutor(workers) as pool:
            try:
                runs = [pool.submit(self._run) for _ in range(workers)]
                while wait(runs, POLL).not_done:
                    if progress:
                        progress(self.done // 8)
            finally:
                self.stopped = True
        for run in runs:
            run.result()
        if progress:
            progress(self.done // 8)

    def _run(self) -> None:
        buffer = bytearray(0)
        try:
            while not self.stopped:
                with self.lock:
                    piece = next(self.pieces, None)
                if piece is None:
                    return
                size = piece.owner.bytes_of(piece)
                if len(buffer) < size:
                    buffer = bytearray(size)
                read = piece.owner.add(piece, buffer)
                with self.lock:
                    self.done += read
        except BaseException:
            self.stopped = True
            raise


# --- one tensor --------------------------------------------------------------------------------------------


class _Count:
    """Counts one tensor, piece by piece.

    Its axes are put in the order in which they lie in the file, so that one that is turned is read once and forwards;
    axes of length 1, and those along which it repeats itself, are none.
    """

    def __init__(self, name: str, entry: Entry, check: bool) -> None:
        import numpy as np

        self.where = f'{entry.storage[0]}: {name!r:.80}'
        self.entry, self.check, self.lock = entry, check, threading.Lock()
        self.zeros = self.nonfinite = 0
        self.signed = False  # whether -0 is to be looked for
        strides = entry.strides or tuple(math.prod(entry.shape[dim + 1 :]) for dim in range(len(entry.shape)))
        axes = [(step, n, dim) for dim, (n, step) in enumerate(zip(entry.shape, strides)) if n > 1 and step]
        axes.sort(reverse=True)
        self.steps, self.sizes, dims = ([axis[part] for axis in axes] for part in range(3))
        self.repeats = math.prod(n for n, step in zip(entry.shape, strides) if not step)
        #: of the first two dimensions: which axis, and which indices have a number that is not 0
        self.units = [(dims.index(dim) if dim in dims else None) for dim in range(min(2, len(entry.shape)))]
        lengths = [1 if axis is None else self.sizes[axis] for axis in self.units]
        if len(entry.shape) < 2 or not entry.count:  # where elements are rows, their zeros tell
            lengths = []
        self._refuse()
        self.alive = [np.zeros(length, bool) for length in lengths]

    def _refuse(self) -> None:
        """What cannot be counted is an error, so that nothing is left out in silence."""
        if not self.entry.count:
            return
        if self.entry.offset is None:
            raise HeaderError(f'{self.where} has no numbers that lie in the file as they are; they cannot be counted')
        if self.entry.dtype.startswith('F6_'):
            raise HeaderError(f'{self.where} is {self.entry.dtype}, of which nobody says how its bits lie; not counted')
        if math.prod(self.sizes) > self._span(0):
            raise HeaderError(f'{self.where} has elements that overlap each other; they cannot be counted')

    def _span(self, axis: int) -> int:
        """Elements from the first to the last of an index, the axes from this one on."""
        return 1 + sum((n - 1) * step for n, step in zip(self.sizes[axis:], self.steps[axis:]))

    @property
    def place(self) -> tuple[str, int]:
        """Where it is read."""
        return self.entry.storage[0], self.entry.offset or 0

    @property
    def bits(self) -> int:
        """How many are read when it is done."""
        return math.prod(self.sizes) * BITS[self.entry.dtype]

    def bytes_of(self, piece: _Piece) -> int:
        """How many a piece needs a buffer for."""
        bits = BITS[self.entry.dtype]
        return (bits * (piece.first + piece.span) + 7) // 8 - bits * piece.first // 8

    def pieces(self, file: int) -> Iterator[_Piece]:
        """The tensor in pieces of about ``PIECE`` bytes: the outermost axis of which an index fits, a few indices."""
        most = 8 * PIECE // BITS[self.entry.dtype]
        axis = next((axis for axis in range(len(self.sizes)) if self._span(axis + 1) <= most), 0)
        if not self.sizes:
            yield _Piece(self, file, (), 0, 1, 0, 1)
            return
        inner, step = self._span(axis + 1), self.steps[axis]
        at_once = (most - inner) // step + 1
        for outer in itertools.product(*map(range, self.sizes[:axis])):
            base = sum(index * step for index, step in zip(outer, self.steps))
            for start in range(0, self.sizes[axis], at_once):
                n = min(at_once, self.sizes[axis] - start)
                yield _Piece(self, file, outer, start, n, base + start * step, (n - 1) * step + inner)

    def add(self, piece: _Piece, buffer: bytearray) -> int:
        """Read and count a piece; returns how many bits it has."""
        import numpy as np

        shape = (piece.n, *self.sizes[len(piece.outer) + 1 :])
        values = self._elements(self._read(piece, buffer), piece, shape)
        bits, nonfinite = self._plain_bits(values)
        # the least number is found faster than zeros are counted, and most tensors have none
        zeros = 0 if not self.zeros and bits.min() else bits.size - int(np.count_nonzero(bits))
        block = bits.reshape(shape)
        found = [self._units(axis, piece, block, zeros, alive) for axis, alive in zip(self.units, self.alive)]
        with self.lock:
            self.zeros += zeros
            self.nonfinite += nonfinite
            for part in found:
                if part is not None:
                    part[0][...] |= part[1]
        return values.size * BITS[self.entry.dtype]

    def _read(self, piece: _Piece, buffer: bytearray) -> memoryview:
        size, done = self.bytes_of(piece), 0
        start = (self.entry.offset or 0) + BITS[self.entry.dtype] * piece.first // 8
        view = memoryview(buffer)[:size]
        while done < size:
            try:
                got = os.preadv(piece.file, [view[done:]], start + done)
            except OSError as error:
                raise HeaderError(f'{self.where} cannot be read: {error.strerror}') from error
            if not got:
                raise HeaderError(f'{self.where} ends at byte {start + size:,}; the file is shorter now')
            done += got
        return view

    def _elements(self, raw: memoryview, piece: _Piece, shape: tuple[int, ...]) -> np.ndarray:
        """The elements of a piece, flat, one after the other."""
        import numpy as np

        bits = BITS[self.entry.dtype]
        values: np.ndarray
        if bits == 4:  # two in a byte, the first in its lower half, -0 is 8
            values = np.frombuffer(raw, 'u1')
            values = np.stack([values & 7, (values >> 4) & 7], 1)
            return values.reshape(-1)[piece.first % 2 :][: piece.span].reshape(-1)
        values = np.frombuffer(raw, f'<u{bits // 8}' if bits < 128 else 'c16', piece.span)
        if piece.span > math.prod(shape):
            steps = [step * bits // 8 for step in self.steps[len(piece.outer) :]]
            values = np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps))
        return values.reshape(-1)

    def _plain_bits(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Make integers of flat elements that are 0 exactly where these are; count what is not finite."""
        import numpy as np

        dtype = self.entry.dtype
        if dtype in _NAN:
            nonfinite = int(np.count_nonzero(values == _NAN[dtype])) if self.check else 0
            return (np.maximum(values, 1) if dtype == 'F8_E8M0' else values), nonfinite  # the one has no 0: 2**-127
        if dtype not in _FLOATS:
            return values, 0
        size, limit = _FLOATS[dtype]
        parts: np.ndarray = values.view(f'<u{size}')
        nonfinite = 0
        if self.check or self.signed or int(parts.view(f'<i{size}').min()) == -1 << (8 * size - 1):  # -0
            self.signed = True
            parts += parts  # without the sign
        if self.check and int(parts.max()) >= limit:
            wrong = parts >= np.array(limit, parts.dtype)
            nonfinite = int(np.count_nonzero(wrong.reshape(values.size, -1).any(1)))
        if dtype == 'C128':
            return parts[::2] | parts[1::2], nonfinite
        return parts.view(f'<u{values.itemsize}'), nonfinite

    def _units(
        self, axis: int | None, piece: _Piece, block: np.ndarray, zeros: int, alive: np.ndarray
    ) -> tuple[np.ndarray, Any] | None:
        """Which rows or columns of a piece have a number that is not 0: a part of ``alive``, and of each whether."""
        level = len(piece.outer)
        if axis is None or axis < level:
            part = alive[:1] if axis is None else alive[piece.outer[axis] :][:1]
        else:
            part = alive[piece.start : piece.start + piece.n] if axis == level else alive
        if zeros < block.size // len(part) or part.all():  # none has room for nothing but zeros
            return part, True
        if zeros == block.size:
            return None
        return part, _nonzero(block.reshape(math.prod(block.shape[: (axis or 0) - level]), len(part), -1))

    def result(self) -> Scan:
        """What was counted."""
        shape, count = self.entry.shape, self.entry.count
        zeros = self.zeros * self.repeats
        units = [shape[dim] if dim < len(shape) else 0 for dim in range(2)] if shape else [1, 0]
        empty = [int(n * (alive.size - alive.sum()) // alive.size) for n, alive in zip(units, self.alive)]
        rows = zeros if len(shape) < 2 else empty[0] if count else 0
        columns = empty[1] if len(empty) > 1 else 0
        nonfinite = self.nonfinite * self.repeats if self.check else None
        return Scan(count, zeros, units[0], rows, units[1], columns, nonfinite)


def _nonzero(block: np.ndarray) -> np.ndarray:
    """Of (before, units, after): whether a unit has a number that is not 0."""
    import numpy as np

    if len(block) > 1:
        units, after = block.shape[1:]
        block = np.bitwise_or.reduce(_wide(block.reshape(len(block), -1)), axis=0).view(block.dtype)
        block = block.reshape(units, after)
    else:
        block = block[0]
    found: np.ndarray = np.bitwise_or.reduce(block[:, :HEAD], axis=1) != 0
    if block.shape[1] > HEAD and not found.all():
        rest = block if 8 * np.count_nonzero(found) < 7 * len(found) else block[~found]
        found[slice(None) if rest is block else ~found] = np.bitwise_or.reduce(_wide(rest), axis=1) != 0
    return found


def _wide(rows: np.ndarray) -> np.ndarray:
    """The same bits as fewer and larger integers, which are faster."""
    return rows.view('<u8') if rows.shape[1] * rows.itemsize % 8 == 0 and rows.flags.c_contiguous else rows
