"""Does a network look? Its losses and its plans with the images, and with nothing in their place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from mmengine.evaluator import Evaluator
from torch import nn

# which losses are shown, each of the last decoder layer and with the weight of the config
LOSSES = {
    'box loss': ('loss_cls', 'loss_bbox'),
    'map loss': ('loss_map_cls', 'loss_map_pts', 'loss_map_dir'),
    'plan loss': ('loss_plan_reg',),
}


@contextmanager
def blank_images(model: nn.Module) -> Iterator[None]:
    """All images of the model are zeros, as padding is, after they were normalised."""

    def blank(module: nn.Module, arguments: tuple, output: dict) -> dict:
        return {**output, 'inputs': {**output['inputs'], 'img': torch.zeros_like(output['inputs']['img'])}}

    handle = model.data_preprocessor.register_forward_hook(blank)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def mean_losses(model: nn.Module, batches: Iterable[dict]) -> dict[str, float]:
    """Losses in evaluation mode: no dropout, stored statistics of the batch norms.

    Args:
        model: the detector.
        batches: what a data loader of training items (queues of frames) gives.

    Returns:
        The sums of ``LOSSES``, means over the samples.
    """
    model.eval()
    sums, samples = defaultdict(float), 0
    for batch in batches:
        data = model.data_preprocessor(batch, False)
        losses = model(**data, mode='loss')
        count = len(data['data_samples'])
        samples += count
        for title, names in LOSSES.items():
            sums[title] += count * sum(float(losses[name]) for name in names)
    return {title: value / samples for title, value in sums.items()}


@torch.no_grad()
def plan_metrics(model: nn.Module, batches: Iterable[dict], evaluator: Evaluator) -> dict[str, float]:
    """Metrics of the plan, frame by frame as in ``tools/test.py``; names without a prefix."""
    model.eval()
    size = 0
    for batch in batches:
        samples = model.test_step(batch)
        size += len(samples)
        evaluator.process(data_samples=samples, data_batch=batch)
    metrics = {name.rpartition('/')[2]: float(value) for name, value in evaluator.evaluate(size).items()}
    return {name: value for name, value in metrics.items() if name.startswith('plan_')}


def compare(
    model: nn.Module,
    training_items: Callable[[], Iterable[dict]],
    frames: Callable[[], Iterable[dict]],
    evaluator: Evaluator,
) -> dict[str, dict[str, float]]:
    """Measure with images and blanked.

    Args:
        model: the detector.
        training_items: gives the batches for :func:`mean_losses`, the same ones each time.
        frames: gives those for :func:`plan_metrics`.
        evaluator: of the config.

    Returns:
        ``{'images': {name: value}, 'blank': {name: value}}``, losses first.
    """

    def measure() -> dict[str, float]:
        return mean_losses(model, training_items()) | plan_metrics(model, frames(), evaluator)

    with_images = measure()
    with blank_images(model):
        return {'images': with_images, 'blank': measure()}
