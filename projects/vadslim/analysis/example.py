"""What one forward of a model looks like: the run that counting, timing and tracing repeat.

A model class states it once, beside the class::

    @declares_example(MyDetector)
    def my_example(model, cfg, small):
        frames = ...
        return Example(run=lambda m: m(frames), label='3 x 384 x 640, batch 1')

A model without a declared example is run on the first batch of its config's test, validation or training
loader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vadslim.analysis.complexity import Complexity, count


@dataclass(frozen=True)
class Change:
    """What another way of computing the same outputs does more, or less, than was counted.

    Attributes:
        module: dotted name of the module that does it.
        why: in a few words; changes for one reason are added up.
        macs, sampling_macs: multiply-accumulates, negative for what it does not do.
    """

    module: str
    why: str
    macs: int = 0
    sampling_macs: int = 0


Alternative = Callable[[nn.Module, Complexity], Sequence[Change]]


@dataclass(frozen=True)
class Example:
    """One forward of a model.

    Attributes:
        run: ``run(model)`` does it and returns what the model returns. It does not touch the model's mode,
            works for the dense and the slim network alike, and does the same work each time (state from
            earlier frames is set up inside).
        label: the sizes that the work depends on, for the report.
        fixed_work: what is done, and on which sizes, does not depend on values in which weights had a part (no boxes
            that pass a threshold and go on), and the model keeps none of them. The forward is then counted without
            computing it, which takes a fraction of the time.
        parts: what people call the parts of the network -> patterns (fnmatch) of the names of their modules, each with
            everything below it; without any, the report takes the model's children.
        alternatives: other ways of computing the same outputs -> a function of the model, dense or slim, and its
            counts, which tells the differences. The report gives both figures.
    """

    run: Callable[[nn.Module], Any]
    label: str
    fixed_work: bool = False
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alternatives: Mapping[str, Alternative] = field(default_factory=dict)

    def count(self, model: nn.Module) -> Complexity:
        """What the forward costs."""
        return count(model, self.run, compute=not self.fixed_work)


Declaration = Callable[[nn.Module, Any, bool], Example]

_DECLARED: dict[type[nn.Module], Declaration] = {}


def declares_example(cls: type[nn.Module]) -> Callable[[Declaration], Declaration]:
    """Registers ``declare(model, cfg, small) -> Example`` for a model class and its subclasses.

    ``cfg`` is the config that the model was built from, or None; ``small`` asks for small sizes that still
    pass through every module (a self-check), otherwise the sizes are those that the report is to name.
    """

    def register(declare: Declaration) -> Declaration:
        _DECLARED[cls] = declare
        return declare

    return register


def find_example(model: nn.Module, cfg: Any = None, small: bool = False) -> Example | None:
    """The example that the model's class, or the nearest of its bases, declares; None when none does."""
    for cls in type(model).__mro__:
        if cls in _DECLARED:
            return _DECLARED[cls](model, cfg, small)
    return None
