"""Parameters and multiply-accumulates (MACs) of a model, per module, counted while it runs.

Every operator that reaches torch's dispatcher during one forward is looked up in a table: matrix products,
convolutions and fused attention give MACs (what ``torch.utils.flop_counter`` counts, halved), bilinear
sampling is a figure of its own, element-wise work costs nothing. What does real work but stands in no table
is listed, never guessed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from vadslim.analysis.numbers import human as human

aten = torch.ops.aten

#: MACs of one bilinear sample of one channel: four corners, and the weight deformable attention gives it.
SAMPLE_MACS = 5


@dataclass(frozen=True)
class Product:
    """One matrix product, convolution or attention of the forward that was counted.

    Attributes:
        module: dotted name of the module that did it.
        macs: its multiply-accumulates.
        weight: the parameter or buffer that is one of its factors, by its first name; '' if both factors were
            computed. Its MACs are proportional to the size of the weight.
        start, stop: the rows (dim 0) of the weight that it read.
        follows: for a product of computed factors, the number of the last product with a weight that the module did
            before it in the same call, itself or in a child: its factors are as wide as that one's result. -1: none.
    """

    module: str
    macs: int
    weight: str = ''
    start: int = 0
    stop: int = 0
    follows: int = -1


@dataclass(frozen=True)
class Complexity:
    """What one forward costs.

    Attributes:
        params: number of parameters of the model, tied ones once (buffers are not parameters).
        macs: multiply-accumulates of matrix products, convolutions and attention.
        modules: dotted module name -> (params, macs), each with everything below it in the tree of names, so that
            siblings add up to what their parent does not do itself; ``''`` is the model.
        sampling_macs: multiply-accumulates of bilinear sampling (``grid_sample``, deformable attention), at
            :data:`SAMPLE_MACS` per channel and point; not part of ``macs``.
        uncounted: what did work that no table knows, as ``'op in module (times)'``.
        products: everything that ``macs`` is the sum of, in the order of the forward.
    """

    params: int
    macs: int
    modules: dict[str, tuple[int, int]]
    sampling_macs: int = 0
    uncounted: list[str] = field(default_factory=list)
    products: list[Product] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        return f'{self.params:,} parameters, {self.macs / 1e9:.3f} GMACs'


def count_params(module: nn.Module) -> int:
    """Number of parameters of a module, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count(model: nn.Module, run: Callable[[nn.Module], Any], compute: bool = True) -> Complexity:
    """Counts one forward of a model.

    Args:
        model: any module; its train / eval mode is left as it is.
        run: does one forward, as ``run(model)``. What a module does outside of ``module(...)``, in a method of its
            own, is counted under the module that calls it.
        compute: False does without the values of everything that a product with a weight has a part in: only shapes
            are worked out, which is much faster. Where such a value is asked for, the forward is done once more and
            computed; the model must keep none of them.

    Returns:
        The counts. They hold for the sizes that ``run`` used; work that depends on data depends on them.
    """
    counter = _Counter(model, compute)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused encoder layer would be one opaque operator
    try:
        with torch.no_grad(), _names_of(model, counter), _opaque_functions(counter), counter:
            run(model)
    except Exception:
        if compute:
            raise
        return count(model, run)  # it needed a value, one way or another
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    macs: Counter[str] = Counter()
    for product in counter.products:
        name = product.module
        while name:
            macs[name] += product.macs
            name = name.rpartition('.')[0]
        macs[''] += product.macs
    modules = {name: (count_params(module), macs[name]) for name, module in model.named_modules()}
    return Complexity(
        params=modules[''][0],
        macs=macs[''],
        modules=modules,
        sampling_macs=counter.sampling,
        uncounted=sorted(f'{what} ({n}x)' for what, n in counter.unknown.items()),
        products=counter.products,
    )


def _matrix_vector(matrix: Tensor) -> int:
    return matrix.numel()


def _attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Fused attention on (batch, heads, length, width): scores and weighted values."""
    batch, heads, queries, width = query.shape
    return int(batch * heads * queries * key.shape[-2] * (width + value.shape[-1]))


#: Products that torch's own table misses.
_EXTRA: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, *_, **__: _matrix_vector(matrix),
    aten.addmv: lambda _bias, matrix, *_, **__: _matrix_vector(matrix),
    aten.dot: lambda a, *_, **__: _matrix_vector(a),
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: _attention(q, k, v),
}

_BILINEAR = 0
_SAMPLING = {aten.grid_sampler_2d, aten._grid_sampler_2d_cpu_fallback, aten.cudnn_grid_sampler}

#: What a wrapper round a compiled kernel does besides calling it.
_PLUMBING = ('empty', 'zeros', 'new_', 'view', 'alias', 'detach', 'clone', 'copy_', 'as_strided')

#: Parts of operator names that do multiply-accumulates of a kind nobody here counts.
_HEAVY = (
    'fft',
    'linalg_',
    'cdist',
    'lstm',
    'gru',
    'rnn',
    'grid_sampler_3d',
    'trilinear',
    'multi_head',
    'encoder_layer',
)


def _deformable(value: Tensor, _shapes: Any, _starts: Any, locations: Tensor, *_: Any) -> int:
    """value (B, keys, heads, width); locations (B, queries, heads, levels, points, 2)."""
    return SAMPLE_MACS * (locations.numel() // 2) * value.shape[-1]


#: autograd Functions that run a compiled kernel the dispatcher never sees: class name -> sampling MACs.
_KERNELS: dict[str, Callable[..., int]] = {'MultiScaleDeformableAttnFunction': _deformable}


class _Counter(TorchDispatchMode):
    """Adds up what passes the dispatcher, under the name of the innermost module that is running."""

    def __init__(self, model: nn.Module, compute: bool) -> None:
        super().__init__()
        self.compute = compute
        self.overwritten: list[Tensor] = []  # ordinary tensors into which something without values was written
        self.stack: list[tuple[str, int]] = [('', 0)]  # name, number of products when it was called
        self.products: list[Product] = []
        self.sampling = 0
        self.seen = 0
        self.unknown: Counter[str] = Counter()
        self.weights = _weights(model)

    @property
    def module(self) -> str:
        """The innermost module that is running."""
        return self.stack[-1][0]

    def add(self, macs: int, factors: Sequence[Any]) -> None:
        """Books MACs on the module that does them."""
        module, start = self.stack[-1]
        name, rows = self.weight(factors)
        if name:
            self.products.append(Product(module, macs, name, *rows))
            return
        before = range(len(self.products) - 1, start - 1, -1)
        follows = next((number for number in before if self.products[number].weight), -1)
        self.products.append(Product(module, macs, follows=follows))

    def weight(self, factors: Sequence[Any]) -> tuple[str, tuple[int, int]]:
        """Name and rows of the weight among the factors of a product; '' if there is none."""
        for factor in reversed(factors):  # a weight comes last, after parameters that are used as activations
            name, tensor = self.weights.get(_memory(factor), ('', None))
            if tensor is not None and tensor.dim() > 1:
                return name, _rows(factor, tensor)
        return '', (0, 0)

    def has_no_values(self, packet: Any, args: Any, kwargs: Any) -> bool:
        """Whether a result is, or follows from, a product with a weight."""
        if packet in flop_registry and self.weight(args)[0]:
            return True
        gone = {_memory(tensor) for tensor in self.overwritten}
        return any(isinstance(tensor, _Shape) or _memory(tensor) in gone for tensor in _tensors(args, kwargs))

    def shapes_of(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operator would return, without values."""
        about = [argument.alias_info for argument in func._schema.arguments]
        written = [arg for arg, alias in zip(args, about) if alias and alias.is_write]
        inputs, named = tree_map_only(Tensor, _meta, (args, kwargs))
        if func.overloadpacket in _SAMPLING:  # (B, C, ...) at (B, points ..., 2): torch would compute every corner
            out = inputs[0].new_empty(*inputs[0].shape[:2], *inputs[1].shape[1:-1])
        else:
            out = func(*inputs, **named | ({'device': 'meta'} if 'device' in named else {}))
        if func._schema.is_mutable:
            if len(written) != 1 or written[0].shape != out.shape:
                raise TypeError(f'{func}: what it changes cannot be followed')
            if not isinstance(written[0], _Shape):
                self.overwritten.append(written[0])
            return written[0]
        device = kwargs.get('device') or _tensors(args, kwargs)[0].device
        return tree_map_only(Tensor, lambda tensor: _Shape(tensor, device), out)

    def note(self, what: str) -> None:
        self.unknown[f'{what} in {self.module}' if self.module else what] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, 'overloadpacket', func)
        known = packet in flop_registry or packet in _EXTRA or packet in _SAMPLING
        if not known and hasattr(func, 'decompose'):
            # Under inference mode composite operators (linear, matmul, conv2d) arrive whole: look inside.
            with self:
                inside = func.decompose(*args, **kwargs)
            if inside is not NotImplemented:
                return inside
        if not self.compute and self.has_no_values(packet, args, kwargs):
            out = self.shapes_of(func, args, kwargs)
        else:
            out = func(*args, **kwargs)
        self.seen += not any(part in func.__name__ for part in _PLUMBING)
        if packet in _EXTRA:
            self.add(_EXTRA[packet](*args, **kwargs), args)
        elif packet in flop_registry:
            self.add(int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2, args)
        elif packet in _SAMPLING:
            bilinear = len(args) < 3 or args[2] == _BILINEAR
            self.sampling += SAMPLE_MACS * out.numel() if bilinear else 0
        elif func.namespace not in ('aten', 'prim', 'prims', 'profiler') or _is_heavy(func):
            self.note(str(packet))
        return out


class _Shape(Tensor):
    """A tensor without values. What asks for one, or for its memory, gets an error."""

    @staticmethod
    def __new__(cls, like: Tensor, device: torch.device) -> _Shape:
        kind: dict[str, Any] = {'strides': like.stride(), 'dtype': like.dtype, 'device': device}
        shape: _Shape = Tensor._make_wrapper_subclass(cls, like.shape, **kind)
        return shape

    def __init__(self, like: Tensor, device: torch.device) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise TypeError(f'{func}: the values are not there')


def _tensors(*values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device='meta')


def _memory(value: Any) -> int:
    """Where a tensor's memory starts; 0 for what has none."""
    real = isinstance(value, Tensor) and not isinstance(value, _Shape) and value.layout == torch.strided
    return value.untyped_storage().data_ptr() if real else 0


def _weights(model: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """Memory -> first name and tensor, of those parameters and buffers that have some for themselves."""
    found: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[_memory(tensor)].append((name, tensor))
    return {memory: named[0] for memory, named in found.items() if memory and len(named) == 1}


def _rows(view: Tensor, weight: Tensor) -> tuple[int, int]:
    """First and last + 1 of the rows of a weight that a view of it shows."""
    size = weight.numel() // weight.shape[0]
    start = (view.storage_offset() - weight.storage_offset()) // size
    stop = start + view.numel() // size
    return (start, stop) if 0 <= start < stop <= weight.shape[0] else (0, weight.shape[0])


def _is_heavy(func: Any) -> bool:
    name = func.__name__.split('.')[0]
    return any(part in name for part in _HEAVY)


@contextmanager
def _names_of(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Keeps ``counter.stack`` at the names of the modules that are running."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: counter.stack.append((name, len(counter.products)))

    def leave(*_: Any) -> None:
        counter.stack.pop()

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _opaque_functions(counter: _Counter) -> Iterator[None]:
    """Watches custom autograd Functions: compiled kernels inside them do not pass the dispatcher."""
    original = Function.__dict__['apply']

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        before = counter.seen, counter.sampling
        out = original.__get__(None, cls)(*args, **kwargs)
        if cls.__name__ in _KERNELS and counter.sampling == before[1]:
            counter.sampling += _KERNELS[cls.__name__](*args)
        elif before == (counter.seen, counter.sampling) and _any_tensor(out):
            counter.note(f'autograd function {cls.__name__}')
        return out

    Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Function.apply = original  # type: ignore[method-assign]


def _any_tensor(out: Any) -> bool:
    return any(isinstance(o, Tensor) for o in (out if isinstance(out, (tuple, list)) else (out,)))
