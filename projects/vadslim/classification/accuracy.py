"""How many images are classified right."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from ..cli import UserError
from ..registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Per cent of the images whose class is among the ``k`` with the highest scores: ``accuracy/top1`` and so on.

    Of equal scores, that of the lower class counts as higher.

    Args:
        topk: the k's.
        collect_device, prefix: as for MMEngine's metrics.

    Raises:
        UserError: a k is below 1.
    """

    default_prefix = 'accuracy'

    def __init__(
        self, topk: int | Sequence[int] = (1,), collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device, prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or any(type(k) is not int or k < 1 for k in self.topk):
            raise UserError(f'Accuracy: topk {topk}: whole numbers of at least 1')

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Note for each image at which place its class stands, the first being 0."""
        if not data_samples:
            return
        scores = torch.stack([sample['scores'] for sample in data_samples])
        labels = torch.as_tensor([int(sample['label']) for sample in data_samples], device=scores.device)
        if max(self.topk) > scores.shape[1]:
            raise UserError(f'Accuracy: topk {max(self.topk)}: there are {scores.shape[1]} classes')
        order = scores.argsort(dim=1, descending=True, stable=True)
        self.results += (order == labels[:, None]).int().argmax(1).tolist()

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Over all images of all ranks."""
        return {f'top{k}': 100 * sum(place < k for place in results) / len(results) for k in self.topk}
