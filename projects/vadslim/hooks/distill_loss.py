"""One term of a distillation: which outputs of two networks are compared, where, and how."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cli import UserError


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p, log_q = ((x / temperature).log_softmax(-1) for x in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(-1, keepdim=True) * temperature**2


def _binary_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = teacher / temperature, student / temperature
    yes = p.sigmoid() * (F.logsigmoid(p) - F.logsigmoid(q))
    no = (-p).sigmoid() * (F.logsigmoid(-p) - F.logsigmoid(-q))
    return (yes + no) * temperature**2


# student, teacher (..., D), temperature -> (..., D) or (..., 1), which is averaged
KINDS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    'mse': lambda student, teacher, _: (student - teacher).square(),
    'l1': lambda student, teacher, _: (student - teacher).abs(),
    'smooth_l1': lambda student, teacher, _: F.smooth_l1_loss(student, teacher, reduction='none'),
    'cosine': lambda student, teacher, _: 1 - F.cosine_similarity(student, teacher, -1)[..., None],
    'kl': _kl,
    'binary_kl': _binary_kl,
}


class Kept:
    """Which positions of a teacher's outputs a student has.

    Args:
        student: its :class:`~vadslim.pruning.Structure`, None if it is dense.
        teacher: the same.
    """

    def __init__(self, student: Any = None, teacher: Any = None) -> None:
        from ..pruning.structure import read_edits

        self.student, self.teacher = student, teacher
        self.student_edits, self.teacher_edits = (read_edits(s.edits if s else ()) for s in (student, teacher))

    def select(self, output: Tensor, dim: int, size: int, places: Sequence[str]) -> Tensor | None:
        """Of a teacher's output what stands for a student's one that has ``size`` along ``dim``.

        Args:
            output: of the teacher.
            dim: where the student has less.
            size: what the student has.
            places: 'parameter:dim' each; one of them has the positions that run along ``dim``.

        Returns:
            The kept positions, or all resampled where the student has a coarser grid; None if the structures do not
            tell, or two places tell different things.
        """
        found = {}
        for place in places:
            name, _, own = place.rpartition(':')
            resampled = self._resampled(output, dim, name, int(own))
            positions = self._positions(name, int(own), output.shape[dim])
            if resampled is not None and resampled.shape[dim] == size:
                found[name] = resampled
            elif positions is not None and len(positions) == size:
                found[str(positions)] = output.index_select(dim, torch.tensor(positions, device=output.device))
        return next(iter(found.values())) if len(found) == 1 else None

    def _resampled(self, output: Tensor, dim: int, name: str, own: int) -> Tensor | None:
        resampling = self.student_edits.resamplings.get(name)
        if resampling is None or resampling.dim != own or own >= output.dim():
            return None
        moved = output.movedim(dim, own)
        fits = resampling.shape(moved.shape, dense=True) == tuple(moved.shape)
        return resampling(moved).movedim(own, dim) if fits else None

    def _positions(self, name: str, own: int, teachers: int) -> list[int] | None:
        """Positions that the student has along a dim of a parameter, among the teacher's."""
        mine = self.student.tensors.get(name, {}).get(own) if self.student else None
        if mine is None:
            return None
        theirs = self.teacher.tensors.get(name, {}).get(own) if self.teacher else None
        theirs = list(range(self.student.shapes[name][own])) if theirs is None else theirs
        fits = len(theirs) == teachers and set(mine) <= set(theirs)
        return np.searchsorted(theirs, mine).tolist() if fits else None


class DistillLoss:
    """How far an output of the student is from the teacher's.

    Args:
        module: the dotted path, in the dense network, of the module whose output is compared.
        output: keys and indices that lead to a tensor in that output, such as ``['all_cls_scores', -1]``; one key may
            stand alone, and without any the output is the tensor.
        weight: factor of this term.
        kind: ``mse``, ``l1`` or ``smooth_l1``; ``cosine`` (1 - similarity over the last dim); for logits ``kl``, the
            divergence of the student's softmax over the last dim from the teacher's, or ``binary_kl``, that of each
            sigmoid (both times T^2, Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2).
        kept: one or more 'parameter:dim' of the network whose positions run along dims of the output, such as
            ``bev_embedding.weight:1``: of a wider teacher those are compared which the student's structure kept;
            where it has a coarser grid the teacher is resampled to it. Not needed where ``module`` is a linear layer,
            convolution or norm: its own channels are meant.
        confidence: ``[module, key, ...]`` of the teacher's class logits (..., classes): the larger the sigmoid of the
            largest one, the more this entry (query) counts, so that what a teacher says of background does not.
            Leading dims as those of the output.
        temperature: T; of ``kl`` and ``binary_kl``.
        name: in ``loss_distill_NAME``; made of module and output otherwise.
    """

    def __init__(
        self,
        module: str,
        output: str | int | Sequence = (),
        weight: float = 1.0,
        kind: str = 'mse',
        kept: str | Sequence[str] = (),
        confidence: Sequence | None = None,
        temperature: float = 1.0,
        name: str | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f'distillation: kind {kind!r}: choose from {", ".join(KINDS)}')
        if weight < 0 or temperature <= 0:
            raise UserError(f'distillation: weight {weight}, temperature {temperature}: positive ones are needed')
        kept = [kept] if isinstance(kept, str) else list(kept)
        for place in kept:
            if not isinstance(place, str) or not place.rpartition(':')[2].isdecimal():
                raise UserError(f"distillation: kept: {place!r}: 'parameter:dim' is needed")
        self.module, self.weight, self.kind = module, weight, kind
        self.path = _path(output)
        # a layer's own channels; the bias settles it where a weight's first dim is another (transposed convolutions)
        self.kept = kept or [f'{module}.bias:0', f'{module}.weight:0']
        self.confidence = None if confidence is None else (confidence[0], _path(confidence[1:]))
        self.temperature = temperature
        keys = [module.rpartition('.')[2], *(str(key) for key in self.path if isinstance(key, str))]
        self.name = name or '_'.join(key for key in keys if key) or 'output'

    def __call__(self, student: Mapping[str, Any], teacher: Mapping[str, Any], kept: Kept) -> Tensor:
        """A number.

        Args:
            student: module -> its output.
            teacher: the same.
            kept: which of the teacher's positions the student has.

        Raises:
            UserError: there is no such output, or the structures do not tell how to compare two shapes.
        """
        mine = _follow(student[self.module], self.path, self.name).float()
        theirs = self._matched(_follow(teacher[self.module], self.path, self.name).float(), mine.shape, kept)
        values = KINDS[self.kind](mine, theirs, self.temperature)
        if self.confidence is None:
            return self.weight * values.mean()
        module, path = self.confidence
        logits = _follow(teacher[module], path, self.name).float()
        scores = self._matched(logits, (*mine.shape[: logits.dim() - 1], logits.shape[-1]), kept).sigmoid().amax(-1)
        values = values.flatten(scores.dim()).mean(-1)
        return self.weight * (values * scores).sum() / scores.sum().clamp_min(torch.finfo(scores.dtype).tiny)

    def _matched(self, theirs: Tensor, shape: Sequence[int], kept: Kept) -> Tensor:
        """The teacher's output with the student's shape."""
        if theirs.dim() == len(shape):
            for dim, size in enumerate(shape):
                if theirs.shape[dim] != size:
                    found = kept.select(theirs, dim, size, self.kept)
                    theirs = theirs if found is None else found
        if theirs.shape != torch.Size(shape):
            raise UserError(
                f'distillation {self.name}: the student says {tuple(shape)}, the teacher {tuple(theirs.shape)}, and '
                "no structure tells which of these; kept='parameter:dim' of the loss names the parameter that has them"
            )
        return theirs


def _path(keys: Any) -> tuple[str | int, ...]:
    keys = (keys,) if isinstance(keys, str | int) else tuple(keys)
    if not all(isinstance(key, str | int) for key in keys):
        raise UserError(f'distillation: {keys!r}: keys and indices are needed')
    return keys


def _follow(output: Any, path: Sequence[str | int], name: str) -> Tensor:
    for key in path:
        try:
            output = output[key]
        except (KeyError, IndexError, TypeError):
            raise UserError(f'distillation {name}: the output has no {key!r}') from None
    if not isinstance(output, Tensor):
        raise UserError(f'distillation {name}: the output is a {type(output).__name__}, a tensor is needed')
    return output
