"""Parameters, multiply-accumulates (MACs) and activations of a model, per module, counted while it runs.

Every operator that reaches torch's dispatcher during one forward is looked up in the tables of ``operators``: matrix
products, convolutions and fused attention give MACs (what ``torch.utils.flop_counter`` counts, halved), bilinear
sampling is a figure of its own, element-wise work costs nothing. What does real work but stands in no table
is listed, never guessed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vadslim.analysis.numbers import human as human
from vadslim.analysis.operators import (
    Cost,
    is_plumbing,
    is_product,
    is_sampling,
    is_unknown,
    kernel_cost,
    product_cost,
    sampling_cost,
)


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
        outputs: elements of its result.
    """

    module: str
    macs: int
    weight: str = ''
    start: int = 0
    stop: int = 0
    follows: int = -1
    outputs: int = 0


@dataclass(frozen=True)
class Sampling:
    """One sampling of a map: ``grid_sample``, deformable attention.

    Attributes:
        module: dotted name of the module that did it.
        macs: its multiply-accumulates, ``operators.SAMPLE_MACS`` per sample; 0 where the nearest element is taken.
        outputs: samples of single channels, before deformable attention sums them up.
    """

    module: str
    macs: int
    outputs: int


@dataclass(frozen=True)
class Complexity:
    """What one forward costs.

    Attributes:
        params: number of parameters of the model, tied ones once (buffers are not parameters).
        macs: multiply-accumulates of matrix products, convolutions and attention.
        modules: dotted module name -> (params, macs), each with everything below it in the tree of names, so that
            siblings add up to what their parent does not do itself; ``''`` is the model.
        sampling_macs: multiply-accumulates of bilinear sampling (``grid_sample``, deformable attention), at
            ``operators.SAMPLE_MACS`` per channel and point; not part of ``macs``.
        uncounted: what did work that no table knows, as ``'op in module (times)'``.
        products: everything that ``macs`` is the sum of, in the order of the forward.
        samplings: everything that ``sampling_macs`` is the sum of, in the order of the forward.
        activations: elements of the results of all products, as fvcore counts activations (what element-wise work,
            norms, pooling and embeddings write is not counted), and of all samplings. Attention has its scores and its
            result whether torch fused it or not.
        calls: dotted module name -> how often it was called; those that were not are missing.
        unread: the parameters that no operator read, by name: of a part that one forward does not need.
    """

    params: int
    macs: int
    modules: dict[str, tuple[int, int]]
    sampling_macs: int = 0
    uncounted: list[str] = field(default_factory=list)
    products: list[Product] = field(default_factory=list, repr=False)
    samplings: list[Sampling] = field(default_factory=list, repr=False)
    activations: int = 0
    calls: dict[str, int] = field(default_factory=dict, repr=False)
    unread: list[str] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        return f'{self.params:,} parameters, {self.macs / 1e9:.3f} GMACs'


def per_module(amounts: Iterable[tuple[str, int]]) -> Counter[str]:
    """Adds up (dotted module name, amount) pairs, each also on all modules above; ``''`` is the model."""
    total: Counter[str] = Counter()
    for name, amount in amounts:
        total[''] += amount
        while name:
            total[name] += amount
            name = name.rpartition('.')[0]
    return total


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
    macs = per_module((product.module, product.macs) for product in counter.products)
    modules = {name: (count_params(module), macs[name]) for name, module in model.named_modules()}
    return Complexity(
        params=modules[''][0],
        macs=macs[''],
        modules=modules,
        sampling_macs=sum(sampling.macs for sampling in counter.samplings),
        uncounted=sorted(f'{what} ({n}x)' for what, n in counter.unknown.items()),
        products=counter.products,
        samplings=counter.samplings,
        activations=sum(p.outputs for p in counter.products) + sum(s.outputs for s in counter.samplings),
        calls=dict(counter.calls),
        unread=[name for name, tensor in model.named_parameters() if _memory(tensor) not in counter.read],
    )


class _Counter(TorchDispatchMode):
    """Adds up what passes the dispatcher, under the name of the innermost module that is running."""

    def __init__(self, model: nn.Module, compute: bool) -> None:
        super().__init__()
        self.compute = compute
        self.overwritten: list[Tensor] = []  # ordinary tensors into which something without values was written
        self.stack: list[tuple[str, int]] = [('', 0)]  # name, number of products when it was called
        self.products: list[Product] = []
        self.samplings: list[Sampling] = []
        self.calls: Counter[str] = Counter()
        self.read: set[int] = {0}  # memory of what operators were given; 0: of a parameter without elements
        self.seen = 0
        self.unknown: Counter[str] = Counter()
        self.weights = _weights(model)

    @property
    def module(self) -> str:
        """The innermost module that is running."""
        return self.stack[-1][0]

    def add(self, cost: Cost, factors: Sequence[Any]) -> None:
        """Books a product on the module that does it."""
        module, start = self.stack[-1]
        name, rows = self.weight(factors)
        if name:
            self.products.append(Product(module, cost.macs, name, *rows, outputs=cost.outputs))
            return
        before = range(len(self.products) - 1, start - 1, -1)
        follows = next((number for number in before if self.products[number].weight), -1)
        self.products.append(Product(module, cost.macs, follows=follows, outputs=cost.outputs))

    def weight(self, factors: Sequence[Any]) -> tuple[str, tuple[int, int]]:
        """Name and rows of the weight among the factors of a product; '' if there is none."""
        for factor in reversed(factors):  # a weight comes last, after parameters that are used as activations
            name, tensor = self.weights.get(_memory(factor), ('', None))
            if tensor is not None and tensor.dim() > 1:
                return name, _rows(factor, tensor)
        return '', (0, 0)

    def has_no_values(self, packet: Any, args: Any, tensors: Sequence[Tensor]) -> bool:
        """Whether a result is, or follows from, a product with a weight."""
        if is_product(packet) and self.weight(args)[0]:
            return True
        gone = {_memory(tensor) for tensor in self.overwritten}
        return any(isinstance(tensor, _Shape) or _memory(tensor) in gone for tensor in tensors)

    def shapes_of(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operator would return, without values."""
        about = [argument.alias_info for argument in func._schema.arguments]
        written = [arg for arg, alias in zip(args, about) if alias and alias.is_write]
        inputs, named = tree_map_only(Tensor, _meta, (args, kwargs))
        if is_sampling(func.overloadpacket):  # (B, C, ...) at (B, points ..., 2): torch would compute every corner
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
        if not (is_product(packet) or is_sampling(packet)) and hasattr(func, 'decompose'):
            # Under inference mode composite operators (linear, matmul, conv2d) arrive whole: look inside.
            with self:
                inside = func.decompose(*args, **kwargs)
            if inside is not NotImplemented:
                return inside
        tensors = _tensors(args, kwargs)
        self.read.update(map(_memory, tensors))
        if not self.compute and self.has_no_values(packet, args, tensors):
            out = self.shapes_of(func, args, kwargs)
        else:
            out = func(*args, **kwargs)
        self.seen += not is_plumbing(func)
        cost = product_cost(packet, args, kwargs, out)
        if cost is not None:
            self.add(cost, args)
        elif is_sampling(packet):
            self.samplings.append(Sampling(self.module, *sampling_cost(args, out)))
        elif is_unknown(func):
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


@contextmanager
def _names_of(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """Keeps ``counter.stack`` at the names of the modules that are running."""

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            counter.calls[name] += 1
            counter.stack.append((name, len(counter.products)))

        return hook

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
    """Watches custom autograd Functions: compiled kernels inside them do not pass the dispatcher.

    Their ``forward`` is watched, not ``apply``, of which many a module keeps a reference from its import on.
    """

    def watched(cls: type[Function], forward: Callable[..., Any]) -> Callable[..., Any]:
        first = int(cls.setup_context is Function.setup_context)  # of the operands, after the context

        def call(*args: Any, **kwargs: Any) -> Any:
            before = counter.seen, len(counter.samplings)
            out = forward(*args, **kwargs)
            cost = kernel_cost(cls.__name__, args[first:])
            if cost is not None and len(counter.samplings) == before[1]:
                counter.samplings.append(Sampling(counter.module, *cost))
            elif before == (counter.seen, len(counter.samplings)) and _any_tensor(out):
                counter.note(f'autograd function {cls.__name__}')
            return out

        return call

    originals = {cls: vars(cls)['forward'] for cls in _subclasses(Function) if 'forward' in vars(cls)}
    try:
        for cls, original in originals.items():
            cls.forward = staticmethod(watched(cls, getattr(original, '__func__', original)))
        yield
    finally:
        for cls, original in originals.items():
            cls.forward = original


def _subclasses(cls: Any) -> set[Any]:
    return {below for child in cls.__subclasses__() for below in (child, *_subclasses(child))}


def _any_tensor(out: Any) -> bool:
    return any(isinstance(o, Tensor) for o in (out if isinstance(out, (tuple, list)) else (out,)))
