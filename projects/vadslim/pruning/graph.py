"""Traced Groups. The only file that imports torch_pruning.

Torch-Pruning's ``DependencyGraph`` runs the model once and finds its layers and operations. Which channel of
one layer is which channel of the next is followed in ``labels.py``: Torch-Pruning's own index mapping knows
concat and split along dim 1 only, takes a split's parts in the order it visits them, and treats what it does
not know as element-wise.

The trace runs on a deep copy in eval mode in which every parameter, buffer and input requires gradients, so
frozen layers are in the graph, and the model's own flags, mode and hooks stay as they are. On the copy each
known layer is one node of the autograd graph, and so is each module that declares Groups of its own: its
inside is not looked at. What leaves the graph (``watching.py``) is protected. Not seen, by any tracer: numbers
that the code computes from a width (``x / x.shape[1]``), and widths that it states (``x.view(-1, 64)``; the slim
model then does not run).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from .elements import Channels, Elements, Label, Shape, Stored
from .find import protect_frozen, run_example
from .group import OPEN, Attr, Group, GroupError, Slice, blocks, declaration_of, first_names
from .labels import Op, apply_rule
from .nesting import map_tensors, tensors_in
from .watching import Edge, Watch, edges

KINDS = tp.ops.OPTYPE
CONVS = (KINDS.CONV, KINDS.DEPTHWISE_CONV)
NORMS = (KINDS.BN, KINDS.LN, KINDS.GN, KINDS.IN, KINDS.PRELU)
VECTORS = ('weight', 'bias', 'running_mean', 'running_var')  # of a norm, one number per channel
LAYERS = (*CONVS, *NORMS, KINDS.LINEAR, KINDS.EMBED)


def trace_groups(
    module: nn.Module, example: Any, prefix: str = '', outputs_free: bool = False, allow_frozen: bool = False
) -> list[Group]:
    """The Groups of coupled channels of one module.

    A Group that reaches an output, an operation that is not followed, or a module with Groups of its own is
    protected with a reason that starts with 'open: ', which a declaration that states the other side lifts
    (``Group.closes``).

    Args:
        module: What is traced; it is left as it is.
        example: Arguments of one forward of ``module``, as in ``find_groups``.
        prefix: Dotted path of the module in the model; stands in front of all names.
        outputs_free: Channels of the outputs may go.
        allow_frozen: Groups that touch a weight with requires_grad=False are not protected.

    Returns:
        One Group per set of channels that lie in the same tensors, in the order of the module's tensors.
    """
    trace = _Trace(module)
    outputs = trace.run(example)
    for tensor, edge in outputs:
        label = trace.label_of(tensor, edge)
        if not outputs_free:
            trace.elements.mark_label(label, f'reaches an output of {prefix or type(module).__name__}')
    trace.mark_left()
    groups = trace.groups()
    if not allow_frozen:
        groups = protect_frozen(module, groups)
    return [group.prefixed(prefix) for group in groups]


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
        self.copy = copy.deepcopy(module).requires_grad_(True)
        for module_copy in self.copy.modules():
            for hooks in (module_copy._forward_hooks, module_copy._forward_pre_hooks):
                hooks.clear()
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
        self.graph = tp.DependencyGraph()

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
            return [tensor for tensor in tensors_in(result[0]) if tensor.grad_fn is not None]

        try:
            with torch.enable_grad():
                self.graph.build_dependency(self.copy, (), forward_fn=forward, verbose=False)
        except Exception:
            # its index mapping, made last and not used here, fails on some concatenations
            if not hasattr(self.graph, 'module2node'):
                raise
        self.kinds = {id(node.module): node.type for node in self.graph.module2node.values() if node.type in LAYERS}
        return edges(tensors_in(result[0]))

    def _track_inputs(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return map_tensors(args, _tracked), map_tensors(kwargs, _tracked)

    def _make_one_node(self, part: nn.Module, anchor: Tensor) -> None:
        forward = part.forward

        def one_node(*args: Any, **kwargs: Any) -> Any:
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
            return result

        part.forward = one_node

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
            return self._through_module(part, inputs[:-1], _shape(node, number))
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

    def _through_module(self, part: nn.Module, inputs: list[tuple[Label, Shape | None]], shape: Shape) -> Label:
        name, kind = self.names[id(part)], self.kinds.get(id(part))
        if kind is None or id(part) in self.opaque:
            what = 'states its own Groups' if id(part) in self.opaque else 'is not in the traced graph'
            for label, _ in inputs:
                self.elements.mark_label(label, f'reaches {name}, which {what}')
            return None
        label, given = inputs[0] if inputs else (None, None)
        layer = _Layer(part, name, kind, self)
        if isinstance(label, Channels) and given is not None and label.dim == layer.channel_dim(len(given)):
            self.elements.unite(label.ids, layer.reads(label.ids))
        else:
            self.elements.mark_label(label, f'reaches {name} along another dim than its channels')
            for own in layer.reading():
                self.elements.mark(own, f'is applied by {name} to what was not followed')
            if kind in NORMS:
                return label
        ids = layer.makes(label)
        return None if ids is None else Channels(layer.channel_dim(len(shape)), ids)

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
        found = self.elements.groups(order, self._name)
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
            if id(part) in self.kinds or id(part) in hidden or not (conv or isinstance(part, nn.Linear)):
                continue
            dim = 1 if conv and part.transposed else 0
            size = part.weight.shape[dim]
            weight = self.first.get(f'{name}.weight' if name else 'weight', '')
            label = f'{name}.{"channels" if conv else "neurons"}'.lstrip('.')
            if weight and label not in names:
                reason = f'{OPEN}{name} is not in the traced graph'
                kind = 'channel' if conv else 'neuron'
                yield Group(label, kind, size, (Slice(weight, dim, blocks(size)),), protected=reason)


class _Layer:
    """Which elements a known layer reads and makes."""

    def __init__(self, part: nn.Module, name: str, kind: Any, trace: _Trace) -> None:
        self.part, self.name, self.kind, self.trace = part, name, kind, trace
        self.elements = trace.elements

    def channel_dim(self, ndim: int) -> int:
        """Which dim of an input or output of ``ndim`` dims counts channels."""
        if self.kind in (KINDS.LINEAR, KINDS.LN, KINDS.EMBED):
            return ndim - 1
        if self.kind in CONVS:
            return ndim - 1 - len(self.part.kernel_size)  # type: ignore[arg-type]
        return 0 if ndim == 1 else 1

    def space(self, attribute: str, dim: int, makes: bool = False) -> np.ndarray | None:
        """The elements of a dim of one of the layer's tensors."""
        tensor = getattr(self.part, attribute, None)
        if not isinstance(tensor, Tensor):
            return None
        name = self.trace.first[f'{self.name}.{attribute}' if self.name else attribute]
        if makes:
            self.elements.makers.add((name, dim))
        return self.elements.space(name, dim, tensor.shape[dim])

    def reads(self, given: np.ndarray) -> np.ndarray:
        """The elements that the input's channels have to be united with."""
        part: Any = self.part
        if self.kind == KINDS.LINEAR:
            return _known(self.space('weight', 1))
        if self.kind not in CONVS:
            return given
        if part.groups == 1:
            return _known(self.space('weight', 0 if part.transposed else 1))
        return self._whole_groups()[0]

    def reading(self) -> list[np.ndarray]:
        """The elements of the layer's own tensors that stand for its input's channels."""
        if self.kind == KINDS.EMBED:
            return []
        if self.kind == KINDS.LINEAR or self.kind in CONVS:
            return [self.reads(np.empty(0, np.int64))]
        spaces = [self.space(attribute, 0) for attribute in VECTORS]
        return [ids for ids in spaces if ids is not None]

    def makes(self, label: Label) -> np.ndarray | None:
        """The elements of the output's channels; None when nothing is known about them."""
        part: Any = self.part
        if self.kind in NORMS:
            return self._norm(label)
        if self.kind == KINDS.EMBED:
            return self.space('weight', 1, makes=True)
        if self.kind in CONVS and part.groups > 1:
            return self._whole_groups()[1]
        ids = _known(self.space('weight', 1 if self.kind in CONVS and part.transposed else 0, makes=True))
        self._bias(ids)
        return ids

    def _bias(self, ids: np.ndarray) -> None:
        bias = self.space('bias', 0)
        if bias is not None:
            self.elements.unite(ids, bias)

    def _whole_groups(self) -> tuple[np.ndarray, np.ndarray]:
        """A grouped (or depthwise) convolution loses whole groups: inputs, outputs and one of ``groups``."""
        part: Any = self.part
        seen = (self.name + ':in', 0) in self.elements.spaces
        inner = self.elements.space(self.name + ':in', 0, part.in_channels)
        outer = self.elements.space(self.name + ':out', 0, part.out_channels)
        if not seen:
            rows = _known(self.space('weight', 0, makes=True))
            self.elements.unite(inner if part.transposed else outer, rows)
            self._bias(outer)
            ins, outs = inner.reshape(part.groups, -1), outer.reshape(part.groups, -1)
            for in_group, out_group in zip(ins, outs):
                members = np.concatenate([in_group, out_group])
                self.elements.unite(np.full(len(members), members[0]), members)
                self.elements.count(Attr(self.name, 'groups'), int(members[0]))
        return inner, outer

    def _norm(self, label: Label) -> np.ndarray | None:
        """A norm passes its channels on; a GroupNorm loses whole groups."""
        if not isinstance(label, Channels):
            return None
        ids, part = label.ids, cast(Any, self.part)
        if self.kind == KINDS.PRELU and part.weight.numel() == 1:
            return ids
        if self.kind == KINDS.LN and (len(part.normalized_shape) != 1 or part.weight is None):
            self.elements.mark(ids, f'{self.name} is a LayerNorm whose width no vector of weights tells')
            return ids
        for attribute in VECTORS:
            own = self.space(attribute, 0)
            if own is not None:
                self.elements.unite(ids, own)
        if self.kind == KINDS.GN and (self.name + ':groups', 0) not in self.elements.spaces:
            groups = int(part.num_groups)
            heads = self.elements.space(self.name + ':groups', 0, groups)
            self.elements.unite(np.repeat(heads, len(ids) // groups), ids)
            for element in heads.tolist():
                self.elements.count(Attr(self.name, 'num_groups'), element)
        return ids


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that become one node: those that state their own Groups, and known layers outside them."""
    opaque = list(_opaque(model))
    inside = {id(inner) for outer in opaque for inner in outer.modules()}
    yield from opaque
    for part in model.modules():
        if id(part) not in inside and tp.ops.module2type(part) in LAYERS and _plain(part):
            yield part


def _opaque(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules inside the model that declare Groups, and recurrent ones."""
    for part in model.children():
        if declaration_of(part) is not None or isinstance(part, nn.RNNBase):
            yield part
        else:
            yield from _opaque(part)


def _plain(part: nn.Module) -> bool:
    """The layer's weight is a parameter of its own (no weight norm, no parametrization)."""
    return 'weight' in part._parameters and not hasattr(part, 'parametrizations')


def _known(ids: np.ndarray | None) -> np.ndarray:
    if ids is None:
        raise GroupError('a layer without a weight')
    return ids


def _is_leaf(node: Any) -> bool:
    return hasattr(node, 'variable')


def _shape(node: Any, number: int) -> Shape:
    return tuple(int(size) for size in node._input_metadata[number].shape)


def _tracked(tensor: Tensor) -> Tensor:
    # a clone: leaves cannot be changed in place, which some models do to their inputs
    return tensor.detach().requires_grad_(True).clone() if tensor.is_floating_point() else tensor
