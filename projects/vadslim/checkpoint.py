"""Checkpoints and info files: safe to read, atomic to write. The only place that calls ``torch.load``.

A file never runs code here. Three things make that true:

* only the names listed below are built from a pickle, everything else is refused by name;
* NumPy's own reconstruction is not used: ``numpy.dtype.__setstate__`` believes the sizes and flags that a
  file states (a forged string dtype crashes the interpreter in NumPy 1.26), so arrays, dtypes and scalars are
  rebuilt from checked parts, and a ``HistoryBuffer`` cannot replace the statistics of all others;
* what MMEngine would act on when it resumes is taken out: Python source (``meta['config']``, ``meta['cfg']``,
  ``message_hub`` ``cfg``), and paths that it would delete outside the checkpoint's own folder.
"""

import contextlib
import difflib
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .files import StrPath as StrPath
from .files import atomic_write as atomic_write
from .image_norm import norm_of_text
from .old_layouts import from_old_layout, names_of_today


class CheckpointError(RuntimeError):
    """A file that cannot be read or written; the message is one line for the user."""


# --- what a pickle may build --------------------------------------------------------------------------------


class _StandIn:
    """Built by a pickle where the object's own reconstruction cannot be trusted; ``value`` is the object."""

    value: Any = None

    def __init__(self, *args: Any) -> None:
        """Take what the pickle passes; a class that needs none of it ignores it."""


class _Dtype(_StandIn):
    """``numpy.dtype(code, align, copy)``: numbers, booleans, text, objects; no fields or subarrays."""

    def __init__(self, code: str, *_: Any) -> None:
        if not (isinstance(code, str) and re.fullmatch(r'[biufc]\d{1,2}|[SU]\d{1,9}|O8?', code)):
            raise pickle.UnpicklingError(f'numpy dtype {str(code)[:40]!r} is not a plain one')
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        byteorder, *structure = state[1:5]
        if byteorder not in ('<', '>', '=', '|') or any(part is not None for part in structure):
            raise pickle.UnpicklingError('numpy dtype with fields')
        self.value = self.value.newbyteorder(byteorder)


class _Array(_StandIn):
    """``numpy.ndarray``, by way of ``_reconstruct(type, shape, typecode)`` and the state that follows."""

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        self.value = _array(data, dtype, shape, 'F' if is_fortran else 'C')


class _History(_StandIn):
    """A HistoryBuffer. Its ``statistics_methods`` are left out: the whole process shares them."""

    def __setstate__(self, state: dict) -> None:
        log, count = state['_log_history'].value, state['_count_history'].value
        if any(array.ndim != 1 or array.dtype.kind not in 'biuf' for array in (log, count)):
            raise pickle.UnpicklingError('HistoryBuffer that does not hold two lists of numbers')
        self.value = HistoryBuffer(log, count, max_length=max(int(state['max_length']), len(log)))


def _array(data: Any, dtype: _Dtype, shape: tuple, order: Literal['C', 'F'] = 'C') -> np.ndarray:
    """Build an array, its own memory, from bytes (or from a list for an object array)."""
    if not isinstance(dtype, _Dtype) or not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError('numpy array without a plain dtype and shape')
    size = math.prod(shape)
    if dtype.value.hasobject:
        if type(data) is not list or len(data) != size:
            raise pickle.UnpicklingError('numpy object array whose size is not that of its data')
        array = np.empty(size, dtype.value)
        for i, item in enumerate(data):
            array[i] = _plain(item)
        return array.reshape(shape, order=order)
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode('latin1')
    if len(data) != size * dtype.value.itemsize:
        raise pickle.UnpicklingError('numpy array whose size is not that of its data')
    return np.ndarray(shape, dtype.value, buffer=bytes(data), order=order).copy(order='K')


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return _array(data, dtype, (1,))[0]


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    return _array(data, dtype, shape, 'F' if order == 'F' else 'C')


class _OneCycle:
    """The class whose two annealing functions stand in the state of MMEngine's OneCycleLR."""


def _method(owner: Any, name: str) -> Any:
    """Stand in for ``builtins.getattr``, by which MMEngine's states name functions of its classes."""
    if owner is _History and name in ('mean', 'max', 'min', 'current'):
        return getattr(HistoryBuffer, name)
    if owner is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {str(name)[:40]!r} is refused')


def _encode(text: str, encoding: str) -> bytes:
    """``_codecs.encode``, by which protocol 2 writes bytes."""
    if encoding not in ('latin1', 'latin-1'):
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode to {str(encoding)[:40]!r} is refused')
    return text.encode('latin1')


_DATA: dict[str, Any] = {
    'numpy.ndarray': _Array,
    'numpy.dtype': _Dtype,
    'builtins.bytes': bytes,
    **{f'numpy.{package}.multiarray._reconstruct': _Array for package in ('core', '_core')},
    **{f'numpy.{package}.multiarray.scalar': _scalar for package in ('core', '_core')},
}
_CHECKPOINT_NAMES: dict[str, Any] = {
    **_DATA,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _OneCycle,
    'builtins.getattr': _method,
}  # besides what torch itself allows with weights_only: tensors, sizes, dtypes, OrderedDict, set ...
_INFO_NAMES: dict[str, Any] = {
    **_DATA,
    **{f'numpy.{package}.numeric._frombuffer': _frombuffer for package in ('core', '_core')},
    **{
        f'builtins.{kind.__name__}': kind
        for kind in (list, dict, tuple, set, frozenset, bytearray, complex, slice, range)
    },
    'builtins.xrange': range,  # protocol 2's name of it
    'collections.OrderedDict': OrderedDict,
    '_codecs.encode': _encode,
}


def _plain(item: Any, seen: set[int] | None = None) -> Any:
    """Put the real objects in place of the stand-ins; dicts and lists are changed in place, each once."""
    if isinstance(item, _StandIn):
        if item.value is None:
            raise pickle.UnpicklingError(f'{type(item).__name__[1:].lower()} without a state')
        return item.value
    seen = set() if seen is None else seen
    if isinstance(item, tuple) and not isinstance(item, torch.Size):
        return tuple(_plain(part, seen) for part in item)
    if isinstance(item, dict | list) and id(item) not in seen:
        seen.add(id(item))
        for key, part in list(item.items() if isinstance(item, dict) else enumerate(item)):
            item[key] = _plain(part, seen)
    return item


# --- reading ------------------------------------------------------------------------------------------------


def load_checkpoint(path: StrPath, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint: MMEngine's, mmcv 1's, old layouts, a bare state dict, in torch's zip or legacy format.

    Args:
        path: a local file.
        map_location: as for ``torch.load``.

    Returns:
        The dict that the file holds; a bare state dict becomes ``{'state_dict': ...}``. ``meta['config']``,
        ``meta['cfg']`` and ``message_hub['runtime_info']['cfg']`` are gone: they are Python source. What the first
        two say of the images' normalisation is ``meta['image_norm']``. Old layouts (:mod:`vadslim.old_layouts`) are
        read as ``state_dict``, ``optimizer``, ``meta`` and so on.

    Raises:
        CheckpointError: no such file; an empty, truncated or foreign one; a pickle that names more than data.
    """
    file = check_file(path)
    try:
        with _only(_CHECKPOINT_NAMES):
            checkpoint = _plain(torch.load(file, map_location=map_location, weights_only=True))
    except Exception as error:  # a damaged or forged pickle can raise anything
        raise CheckpointError(f'{file}: {_why(error, file)}') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{file}: holds a {type(checkpoint).__name__}, not the dict of a checkpoint')
    if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        checkpoint = {'state_dict': names_of_today(checkpoint)}
    _defuse(checkpoint, file)
    checkpoint = from_old_layout(checkpoint, file.name) or checkpoint
    state = checkpoint.get('state_dict')
    odd = next((name for name in state if not isinstance(name, str)), '') if isinstance(state, dict) else ''
    if odd != '':
        raise CheckpointError(f'{file}: a tensor of its state_dict has no text for a name: {odd!r:.40}')
    return checkpoint


def register_loader() -> None:
    """Make MMEngine read all checkpoints by :func:`load_checkpoint`: ``load_from``, ``resume``, ``init_cfg``.

    Other schemes (``https://``, ``torchvision://``, ``s3://`` ...) are refused: vadslim downloads nothing.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    def load_from_local(filename: str, map_location: Any = None, **_: Any) -> dict[str, Any]:
        if re.match(r'[\w.+-]+://|open-?mmlab:', filename):
            raise CheckpointError(f'{filename}: vadslim downloads nothing; name a local file')
        return load_checkpoint(Path(filename).expanduser(), map_location)

    CheckpointLoader.register_scheme(['', *CheckpointLoader._schemes], loader=load_from_local, force=True)


def load_info(path: StrPath) -> Any:
    """Read a pickle of plain data (an info file): numbers, text, containers and NumPy arrays of these.

    Raises:
        CheckpointError: no such file, an empty or truncated one, or a pickle that names anything else.
    """
    file = check_file(path)
    try:
        with file.open('rb') as stream:
            return _plain(_InfoUnpickler(stream, encoding='latin1').load())
    except Exception as error:  # a damaged or forged pickle can raise anything
        raise CheckpointError(f'{file}: {_why(error, file)}') from error


class _InfoUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f'{module}.{name}'.replace('__builtin__.', 'builtins.')  # protocol 2
        if full not in _INFO_NAMES:
            raise pickle.UnpicklingError(f'GLOBAL {full} is refused')
        return _INFO_NAMES[full]


@contextlib.contextmanager
def _only(names: dict[str, Any]) -> Iterator[None]:
    """Allow ``torch.load`` these names and torch's own, not what other libraries have allow-listed."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(value, name) for name, value in names.items()]):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def _defuse(checkpoint: dict[str, Any], file: Path) -> None:
    """Take out what MMEngine executes, or deletes by, when it resumes."""
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    if isinstance(meta, dict):
        texts = [meta.pop(key, None) for key in ('config', 'cfg')]  # Runner.resume executes the first
        norm = norm_of_text(texts[0]) or norm_of_text(texts[1])
        if norm is not None:
            meta['image_norm'] = norm.to_dict()
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    if not (isinstance(hub, dict) and isinstance(info, dict)):
        return
    dropped = {'cfg'}  # the Inferencer executes it
    for key, value in info.items():
        if key.startswith('best_ckpt') and not (isinstance(value, str) and _is_beside(value, file)):
            dropped.add(key)  # CheckpointHook deletes it when a better one comes
        if key == 'keep_ckpt_ids' and not (isinstance(value, list) and all(type(i) is int for i in value)):
            dropped.add(key)  # CheckpointHook puts them into file names that it deletes
    for key in dropped:
        info.pop(key, None)
        if isinstance(hub.get('resumed_keys'), dict):
            hub['resumed_keys'].pop(key, None)


def _is_beside(value: str, file: Path) -> bool:
    path = Path(value)
    return path.name.startswith('best_') and path.parent.resolve() == file.parent.resolve()


def check_file(path: StrPath) -> Path:
    """Check that a file is there, is not empty and can be opened.

    Raises:
        CheckpointError: says what is wrong, or names the nearest file.
    """
    file = Path(path)
    if file.is_dir():
        raise CheckpointError(f'{file}: is a folder, not a file')
    if not file.exists():
        if not file.parent.is_dir():
            raise CheckpointError(f'{file}: no such file, nor its folder')
        names = [entry.name for entry in file.parent.iterdir() if entry.is_file()]
        near = difflib.get_close_matches(file.name, names, n=1, cutoff=0.5)
        hint = f'; did you mean {file.with_name(near[0])}?' if near else ''
        raise CheckpointError(f'{file}: no such file{hint}')
    try:
        if file.stat().st_size == 0:
            raise CheckpointError(f'{file}: is empty (0 bytes)')
        file.open('rb').close()
    except OSError as error:
        raise CheckpointError(f'{file}: cannot be read: {error.strerror}') from error
    return file


def _why(error: Exception, file: Path) -> str:
    """Say in a few words why a file could not be read."""
    text = ' '.join(str(error).split())
    refused = re.search(r'GLOBAL ([\w.]+)', text)
    if refused:
        name = refused[1] if '.' in refused[1] else f'builtins.{refused[1]}'
        return f'its pickle names {name}, which is not data: refused, nothing of it was run'
    with file.open('rb') as stream:
        magic = stream.read(2)
    if magic == b'PK':
        cut = not zipfile.is_zipfile(file)
    elif magic[:1] == b'\x80':  # the first opcode of every pickle since protocol 2
        cut = isinstance(error, EOFError | IndexError | struct.error) or 'truncated' in text
    else:
        return 'is not a checkpoint or pickle'
    if cut or re.search('PytorchStreamReader|unexpected EOF|corrupt', text):
        return 'is truncated or damaged'
    text = text.rpartition('WeightsUnpickler error: ')[2].partition(' Check the documentation')[0]
    return f'cannot be read safely: {text[:200] or type(error).__name__}'


# --- writing ------------------------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Any, path: StrPath) -> None:
    """Write a checkpoint by ``torch.save``, whole or not at all.

    Raises:
        CheckpointError: the folder is missing or not writable, or the disk is full.
    """
    with write_errors(path), atomic_write(path, 'wb') as file:
        sink = _Sink(file)
        try:
            torch.save(checkpoint, cast(IO[bytes], sink))
        except RuntimeError:
            if sink.error is None:
                raise
            raise sink.error from None  # torch's zip writer hides why a write failed


def dump_info(info: Any, path: StrPath) -> None:
    """Pickle plain data for :func:`load_info` (protocol 4), whole or not at all.

    Raises:
        CheckpointError: the folder is missing or not writable, or the disk is full.
    """
    with write_errors(path), atomic_write(path, 'wb') as file:
        pickle.dump(info, file, protocol=4)


class _Sink:
    """A file for ``torch.save`` that remembers the error that stopped it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@contextlib.contextmanager
def write_errors(path: StrPath) -> Iterator[None]:
    """Turn what the system says of a file that cannot be written into a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be written: {error.strerror}') from error
