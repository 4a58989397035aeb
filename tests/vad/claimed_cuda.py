"""Tensors that claim to lie on a CUDA device, for machines without one.

Every operation is computed on the CPU, but as on a real device it is refused when tensors of both places meet. So a
tensor that is created in the wrong place is found, and autocast follows CUDA's rules. What this cannot show: kernels,
their rounding, speed and memory, and the backward pass, whose engine asks the driver.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device('cuda:0')
_aten = torch.ops.aten
_BETWEEN_DEVICES = (_aten._to_copy, _aten.copy_)
_INDEXED = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
_GUARDS = '_ZN3c104impl26device_guard_impl_registryE'


class ClaimedTensor(torch.Tensor):
    """``held`` is the tensor on the CPU that has its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> 'ClaimedTensor':
        self = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=CUDA
        )
        self.held = held
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, data: Any, **kwargs: Any) -> torch.Tensor:
        return ClaimedTensor(self.held.new_tensor(data, **kwargs))


class _Creation(TorchDispatchMode):
    """Sees also what is created on the device without another tensor."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(func, args, kwargs or {})


def _call(func: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    claimed = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, ClaimedTensor)}
    if claimed and func.overloadpacket not in _BETWEEN_DEVICES:
        indexed = func.overloadpacket in _INDEXED  # the indices may lie on the CPU, and so may numbers
        for tensor in tree_leaves((args[:1], args[2:])) if indexed else tensors:
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, ClaimedTensor) and tensor.dim():
                raise RuntimeError(f'{func}: a tensor of shape {tuple(tensor.shape)} is on cpu, others are on {CUDA}')
    device = kwargs.get('device')
    if device is not None:
        on_cuda = torch.device(device).type == 'cuda'
        kwargs = {**kwargs, 'device': torch.device('cpu')}
    elif func.overloadpacket is _aten.copy_:
        on_cuda = isinstance(args[0], ClaimedTensor)
    else:
        on_cuda = bool(claimed)
    if func is _aten._softmax.default and args[2]:  # half to single precision in one, which the CPU cannot
        args = (args[0].float(), args[1], False)
    result = func(*_held(args), **_held(kwargs))

    def claim(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return claimed[id(value)] if id(value) in claimed else ClaimedTensor(value)

    return tree_map(claim, result) if on_cuda else result


def _held(values: Any) -> Any:
    return tree_map(lambda x: x.held if isinstance(x, ClaimedTensor) else x, values)


@contextmanager
def claimed_cuda() -> Iterator[None]:
    """Inside, ``.to('cuda:0')`` gives tensors that claim to be there; skips the test if torch hides what it takes."""
    library = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob('lib/*c10.*'))))
    try:
        guards = (ctypes.c_void_p * 2).in_dll(library, _GUARDS)  # per device type what switches devices: CPU, CUDA, ...
    except ValueError:
        pytest.skip('this torch does not show its device guards')
    only_lift = torch._C._only_lift_cpu_tensors()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, '_lazy_init', lambda: None)
        guards[1] = guards[0]
        torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor(..., device='cuda') asks the driver
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with _Creation():
                yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
            torch._C._set_only_lift_cpu_tensors(only_lift)
            guards[1] = None


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """``torch.autocast('cuda', dtype)``, which turns itself off where there is no CUDA."""
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', before[0])
        torch.set_autocast_dtype('cuda', before[1])
