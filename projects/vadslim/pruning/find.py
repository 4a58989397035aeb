"""All the Groups of a model, declared and traced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from .group import FROZEN, Group, check_groups, declared_groups, tensors_of
from .joining import join_groups, merge_reasons


@dataclass(frozen=True)
class Trace:
    """A child that may be traced, and with what.

    Args:
        child: Dotted path of the child; '' is the model itself.
        example: Arguments of one forward of the child: a tensor, a tuple (positional), a dict (keywords), or
            a function run(child) that does it and returns the outputs.
    """

    child: str
    example: Any


TraceDeclaration = Callable[[nn.Module, Any], Sequence[Trace]]
_TRACES: dict[type[nn.Module], TraceDeclaration] = {}


def declares_traces(module_class: type[nn.Module]) -> Callable[[TraceDeclaration], TraceDeclaration]:
    """Register a function (model, example) -> Traces: which children of a model may be traced.

    Without one the whole model is traced, and with one nothing but what it returns.
    """

    def register(declaration: TraceDeclaration) -> TraceDeclaration:
        _TRACES[module_class] = declaration
        return declaration

    return register


def find_groups(model: nn.Module, example: Any = None, allow_frozen: bool = False) -> list[Group]:
    """The Groups of a model, in the order of its tensors.

    What was traced is tried at once, without half of its units: Groups whose slim network does not compute what the
    masked one does are protected. That takes two forwards in float64.

    Args:
        model: Any torch model; it is left as it is.
        example: A tensor, a tuple (positional arguments), a dict (keyword arguments) or a function run(model)
            that does one forward. Without it only declared Groups are found.
        allow_frozen: Groups that touch a weight matrix or kernel with requires_grad=False may be pruned, too.
            (Frozen norms and biases never stand in the way.)

    Raises:
        GroupError: A declaration contradicts the model.
    """
    sources = declared_groups(model)
    if example is not None:
        from .graph import trace_groups

        declaration = next((_TRACES[cls] for cls in type(model).__mro__ if cls in _TRACES), None)
        traces = declaration(model, example) if declaration else [Trace('', example)]
        for trace in traces:
            sources.append(trace_groups(model.get_submodule(trace.child), trace.example, trace.child))
    groups = join_groups(sources)
    if not allow_frozen:
        groups = protect_frozen(model, groups)
    order = {name: number for number, name in enumerate(tensors_of(model))}
    groups.sort(key=lambda group: min((order.get(part.tensor, 0) for part in group.slices), default=0))
    check_groups(model, groups)
    return groups


def protect_frozen(model: nn.Module, groups: Sequence[Group]) -> list[Group]:
    """Protect the Groups that touch a weight matrix or kernel that does not train."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and p.dim() > 1}
    result = []
    for group in groups:
        touched = next((part.tensor for part in group.slices if part.tensor in frozen), None)
        if touched is not None:
            reason = merge_reasons([group.protected, f'{FROZEN}{touched} does not train'])
            group = replace(group, protected=reason)
        result.append(group)
    return result


def run_example(model: nn.Module, example: Any) -> Any:
    """One forward with what ``find_groups`` calls an example."""
    if callable(example) and not isinstance(example, Tensor | nn.Module):
        return example(model)
    if isinstance(example, dict):
        return model(**example)
    if isinstance(example, tuple | list):
        return model(*example)
    return model(example)
