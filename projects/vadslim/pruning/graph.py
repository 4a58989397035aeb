"""Traced Groups. The only file that imports torch_pruning.

Torch-Pruning's ``DependencyGraph`` runs the model once and finds the layers that its outputs depend on. Which
channel of one layer is which channel of the next is followed in ``labels.py``: Torch-Pruning's own index mapping
knows concat and split along dim 1 only, takes a split's parts in the order it visits them, and treats what it does
not know as element-wise.

The trace runs on a deep copy in eval mode in which every parameter, buffer and input requires gradients, so
frozen layers are in the graph, and the model's own flags, mode and hooks stay as they are. On the copy each
known layer is one node of the autograd graph, and so is each module that declares Groups of its own: its
inside is not looked at. What leaves the graph (``watching.py``) is protected.

No tracer sees numbers that the code computes from a width (``x / x.shape[1]``), or widths that it states
(``x.view(-1, 64)``). So what was found is tried: Groups whose slim network does not compute what the masked one does
are protected, too.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from .borders import Borders, borders_of
from .elements import Channels, Elements, Label, Shape, Stored
from .find import run_example
from .group import OPEN, Group, GroupError, Place, Slice, blocks, declaration_of, first_names
from .labels import Op, apply_rule
from .layers import NORMS, Layer, as_stock, stock_class
from .nesting import map_tensors, tensors_in
from .proof import protect_wrong
from .watching import Edge, Watch, edges


def trace_groups(module: nn.Module, example: Any, prefix: str = '') -> list[Group]:
    """The Groups of coupled channels of one module.

    A Group that reaches an output, an operation that is not followed, or a module with Groups of its own is
    protected with a reason that starts with 'open: ', which a declaration that states the other side lifts
    (``Group.closes``).

    Args:
        module: What is traced; it is left as it is.
        example: Arguments of one forward of ``module``, as in ``find_groups``.
        prefix: Dotted path of the module in the model; stands in front of all names.

    Returns:
        One Group per set of channels that lie in the same tensors, in the order of the module's tensors.
    """
    trace = _Trace(module)
    for tensor, edge in trace.run(example):
        where = f'reaches an output of {prefix or type(module).__name__}'
        trace.elements.mark_label(trace.label_of(tensor, edge), where)
    trace.mark_left()
    groups = protect_wrong(module, trace.groups(), lambda model: run_example(model, example))
    return [group.prefixed(prefix) for group in groups]


class _Found(Exception):
    """Torch-Pruning has found the layers."""


class _Layers(tp.DependencyGraph):
    """Torch-Pruning's graph up to its dependencies; its index mapping, made after them, fails on some networks."""

    def _build_dependency(self, module2node: dict) -> None:
        raise _Found


class _OneNode(torch.autograd.Function):
    """Whatever ``run`` does, as one node of the graph whose inputs are ``tensors``."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[], tuple], *tensors: Tensor) -> tuple:
        return run()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        raise RuntimeError('a traced copy is not trained')


class _Trace:
    """One traced copy: its graph, the labels of its tensors, and the elements that have to leave together."""

    def __init__(self, module: nn.Module) -> None:
        self.first = first_names(module)
        try:
            self.copy = copy.deepcopy(module)
        except RuntimeError as error:  # a computed tensor is kept, as torch.nn.utils.weight_norm does
            why = str(error).partition(' at the moment')[0]
            raise GroupError(f'{type(module).__name__} cannot be copied, as slimming needs it: {why}') from error
        self.copy.eval()  # mmdet's backbones return nothing here
        self.copy.requires_grad_(True)  # last: they freeze their stems in it
        for part in self.copy.modules():
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        for buffer in self.copy.buffers():
            if buffer.is_floating_point():
                buffer.requires_grad_(True)
        self.names = {id(part): name for name, part in self.copy.named_modules()}
        self.stored = {id(tensor): name for name, tensor in [*self.copy.named_parameters(), *self.copy.named_buffers()]}
        self.opaque = {id(part) for part in _opaque(self.copy)}
        self.elements = Elements()
        self.owner: dict[Any, nn.Module] = {}  # node of the graph -> the layer or opaque module it stands for
        self.watch = Watch()
        self.blind: list[nn.Module] = []  # layers that ran without gradients
        self.labels: dict[tuple[Any, int], Label] = {}
        self.arguments: dict[Any, list[str]] = {}  # such a node -> which argument each of its inputs is
        self.reached: set[int] = set()  # ids of the layers that the outputs depend on
        self.foreign: set[int] = set()  # ids of those that do something else than their base class

    # --- running the copy ---------------------------------------------------------------------------------

    def run(self, example: Any) -> list[tuple[Tensor, Edge]]:
        """Trace one forward; every output tensor with its edge."""
        anchor = torch.zeros((), requires_grad=True)
        for part in _parts(self.copy):
            self._make_one_node(part, anchor)
        self.copy.register_forward_pre_hook(self._track_inputs, with_kwargs=True)
        result: list[Any] = []

        def forward(model: nn.Module, _: Any) -> list[Tensor]:
            with self.watch:
                result.append(run_example(model, example))
            # a layer whose values leave the graph (proposals of a detector) is one of the graph, too
            ends = [*tensors_in(result[0]), *(tensor for tensor, _, _ in self.watch.left)]
            return [tensor for tensor in ends if tensor.grad_fn is not None]

        graph = _Layers()
        with torch.enable_grad(), contextlib.suppress(_Found):
            graph.build_dependency(self.copy, (), forward_fn=forward, verbose=False)
        self.reached = {id(node.module) for node in graph.module2node.values()} - self.foreign
        return edges(tensors_in(result[0]))

    def _track_inputs(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return map_tensors(args, _tracked), map_tensors(kwargs, _tracked)

    def _make_one_node(self, part: nn.Module, anchor: Tensor) -> None:
        forward, stock = part.forward, as_stock(part)

        def one_node(*args: Any, **kwargs: Any) -> Any:
            if stock is not None and not self._same(forward, stock.forward, args, kwargs):
                self.foreign.add(id(part))
                return forward(*args, **kwargs)
            inputs = [tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point()]
            if not torch.is_grad_enabled():
                taken = f'{self.names[id(part)]}, under no_grad'
                self.watch.left += [(tensor, edge, taken) for tensor, edge in edges(inputs)]
                self.blind.append(part)
            nested: list[Any] = []

            def run() -> tuple:
                nested.append(forward(*args, **kwargs))
                return tuple(tensor.clone() for tensor in tensors_in(nested[0]))

            with self.watch.paused():
                outputs = iter(_OneNode.apply(run, *inputs, anchor))
            result = map_tensors(nested[0], lambda _: next(outputs))
            for tensor in tensors_in(result):
                if tensor.grad_fn is not None:
                    self.owner[tensor.grad_fn] = part
                    self.arguments[tensor.grad_fn] = _arguments(forward, args, kwargs)
            return result

        part.forward = one_node

    def _same(self, one: Callable, other: Callable, args: tuple, kwargs: dict) -> bool:
        """Whether two functions give the same tensors, up to rounding on a GPU."""
        with self.watch.paused(), torch.no_grad():
            try:
                results = [list(tensors_in(function(*args, **kwargs))) for function in (one, other)]
            except (TypeError, RuntimeError):  # other arguments, or shapes that only one of them takes
                return False
        kinds = [[(tensor.shape, tensor.dtype) for tensor in result] for result in results]
        return kinds[0] == kinds[1] and all(map(torch.allclose, *results))

    # --- labels -------------------------------------------------------------------------------------------

    def label_of(self, tensor: Tensor, edge: Edge) -> Label:
        """The label of a tensor of the forward that stood at ``edge`` of the graph."""
        return self._stored(tensor) if edge[0] is None else self.label(*edge)

    def label(self, node: Any, number: int) -> Label:
        """The label of one output of a node; its inputs are labelled first, without recursion."""
        stack = [(node, number)]
        while stack:
            top = stack[-1]
            if top in self.labels:
                stack.pop()
                continue
            waiting = [
                edge
                for edge in top[0].next_functions
                if edge[0] is not None and not _is_leaf(edge[0]) and edge not in self.labels
            ]
            if waiting:
                stack += waiting
                continue
            self.labels[top] = self._compute(*stack.pop())
        return self.labels[node, number]

    def _compute(self, node: Any, number: int) -> Label:
        inputs = [self._input(edge) for edge in node.next_functions]
        part = self.owner.get(node)
        if part is not None:
            return self._through_module(part, node, inputs[:-1], _shape(node, number), number)
        name = node.name().rstrip('0123456789').removesuffix('Backward')
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name += ' of a class of its own'  # whatever its name
        literal, constants = node in self.watch.splits, self.watch.constants.get(node)
        shape = _shape(node, number)
        return apply_rule(Op(name, node, number, shape, inputs, literal, constants, self.elements))

    def _input(self, edge: tuple[Any, int]) -> tuple[Label, Shape | None]:
        node, number = edge
        if node is None:
            return None, None
        if not _is_leaf(node):
            return self.labels[edge], _shape(node, number)
        return self._stored(node.variable), tuple(node.variable.shape)

    def _stored(self, tensor: Tensor) -> Label:
        name, shape = self.stored.get(id(tensor)), tuple(tensor.shape)
        return Stored(self.first.get(name, name), tuple(range(len(shape))), shape) if name else None

    def _through_module(
        self, part: nn.Module, node: Any, inputs: list[tuple[Label, Shape | None]], shape: Shape, number: int
    ) -> Label:
        name = self.names[id(part)]
        borders = borders_of(part) if id(part) in self.opaque else None
        if borders is not None:
            made = self._across(name, borders, self.arguments[node], inputs)
            return Channels(len(shape) - 1, made) if number == 0 else None
        if id(part) in self.opaque or id(part) not in self.reached:
            what = 'states its own Groups' if id(part) in self.opaque else 'is not in the traced graph'
            what = 'is recurrent' if isinstance(part, nn.RNNBase) else what
            for label, _ in inputs:
                self.elements.mark_label(label, f'reaches {name}, which {what}')
            return None
        label, given = inputs[0] if inputs else (None, None)
        layer = Layer(part, name, self.elements, self.first)
        if isinstance(label, Channels) and given is not None and label.dim == layer.channel_dim(len(given)):
            self.elements.unite(label.ids, layer.reads(label.ids))
        else:
            self.elements.mark_label(label, f'reaches {name} along another dim than its channels')
            for own in layer.reading():
                self.elements.mark(own, f'is applied by {name} to what was not followed')
            if isinstance(part, NORMS):
                return label
        ids = layer.makes(label)
        return None if ids is None else Channels(layer.channel_dim(len(shape)), ids)

    def _across(
        self, name: str, borders: Borders, arguments: list[str], inputs: list[tuple[Label, Shape | None]]
    ) -> np.ndarray:
        """Unite what a module of known borders is given with what reads it; the elements of its output's channels."""
        for argument, (label, shape) in zip(arguments, inputs):
            if argument not in borders.inputs:
                self.elements.mark_label(label, f'reaches {name} as its {argument}')
                continue
            own = self._place(name, borders.inputs[argument])
            if isinstance(label, Channels) and shape is not None and label.dim == len(shape) - 1:
                self.elements.unite(label.ids, own)
            else:
                self.elements.mark_label(label, f'reaches {name} along another dim than its channels')
                self.elements.mark(own, f'is applied by {name} to what was not followed')
        made, *others = (self._place(name, place, makes=True) for place in borders.outputs)
        for own in others:
            self.elements.unite(made, own)
        return made

    def _place(self, name: str, place: Place, makes: bool = False) -> np.ndarray:
        """The elements of a dim of a tensor of the module ``name``."""
        tensor, dim = self.first[f'{name}.{place[0]}'], place[1]
        if makes:
            self.elements.makers.add((tensor, dim))
        return self.elements.space(tensor, dim, self.copy.get_submodule(name).get_parameter(place[0]).shape[dim])

    def mark_left(self) -> None:
        """Protect what leaves the graph, and what layers outside of it read and make."""
        for tensor, edge, what in self.watch.left:
            self.elements.mark_label(self.label_of(tensor, edge), f'leaves the graph of gradients in {what}')
        for part in self.blind:
            for tensor in part.parameters():
                self.elements.mark_label(self._stored(tensor), f'belongs to {self.names[id(part)]}, run under no_grad')

    # --- units and Groups -----------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """Units that lie in the same tensors form a Group; layers not reached are listed, protected."""
        order = {name: number for number, name in enumerate(dict.fromkeys(self.first.values()))}
        # whatever the masked twin holds there, it must not divide by zero
        ones = {self.first[name] for name, _ in self.copy.named_buffers() if not name.endswith('running_mean')}
        found = self.elements.groups(order, ones, self._name)
        return [*found, *self._unreached({group.name for group in found})]

    def _name(self, spaces: list[tuple[str, int]]) -> tuple[str, str]:
        """The Group is named after the first layer, or else tensor, that makes its channels."""
        makers = [space for space in spaces if space in self.elements.makers]
        for tensor, dim in makers:
            path = tensor.rpartition('.')[0]
            part = self.copy.get_submodule(path)
            if isinstance(part, nn.Linear | nn.modules.conv._ConvNd | nn.Embedding):
                kind = 'neuron' if isinstance(part, nn.Linear) else 'channel'
                kind = 'row' if isinstance(part, nn.Embedding) and dim == 0 else kind
                return f'{path}.{kind}s'.lstrip('.'), kind
        return f'{makers[0][0]}.channels', 'channel'

    def _unreached(self, names: set[str]) -> Iterator[Group]:
        hidden = {id(inner) for outer in _opaque(self.copy) for inner in outer.modules()}
        for name, part in self.copy.named_modules():
            conv = isinstance(part, nn.modules.conv._ConvNd)
            if id(part) in self.reached | hidden or not (conv or isinstance(part, nn.Linear)):
                continue
            dim = 1 if conv and part.transposed else 0
            size = part.weight.shape[dim]
            weight = self.first.get(f'{name}.weight' if name else 'weight', '')
            label = f'{name}.{"channels" if conv else "neurons"}'.lstrip('.')
            if weight and label not in names:
                reason = 'is not in the traced graph'
                if id(part) in self.foreign:
                    reason = f'({type(part).__name__}) does something else than its base class of torch'
                kind = 'channel' if conv else 'neuron'
                yield Group(label, kind, size, (Slice(weight, dim, blocks(size)),), protected=f'{OPEN}{name} {reason}')


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that become one node: those that state their own Groups, and known layers outside them."""
    opaque = list(_opaque(model))
    inside = {id(inner) for outer in opaque for inner in outer.modules()}
    yield from opaque
    for part in model.modules():
        if id(part) not in inside and stock_class(part) is not None:
            yield part


def _opaque(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules inside the model that declare Groups, and recurrent ones."""
    for part in model.children():
        if declaration_of(part) is not None or isinstance(part, nn.RNNBase):
            yield part
        else:
            yield from _opaque(part)


def _arguments(forward: Callable, args: tuple, kwargs: dict) -> list[str]:
    """Which argument each of the floating-point tensors of a call belongs to, in the order of ``tensors_in``."""
    names = [*inspect.signature(forward).parameters][: len(args)]
    names += [''] * (len(args) - len(names))  # *args
    return [
        name
        for name, value in [*zip(names, args), *kwargs.items()]
        for tensor in tensors_in(value)
        if tensor.is_floating_point()
    ]


def _is_leaf(node: Any) -> bool:
    return hasattr(node, 'variable')


def _shape(node: Any, number: int) -> Shape:
    return tuple(int(size) for size in node._input_metadata[number].shape)


def _tracked(tensor: Tensor) -> Tensor:
    # a clone: leaves cannot be changed in place, which some models do to their inputs
    return tensor.detach().requires_grad_(True).clone() if tensor.is_floating_point() else tensor
