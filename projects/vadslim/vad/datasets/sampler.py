"""Sampling for the evaluation of temporal models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import groupby

from mmdet3d.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler


def split_scenes(scenes: Sequence[str], num_ranks: int) -> list[range]:
    """Cut a sequence of frames into one contiguous range per rank, at borders of scenes only.

    A scene goes to the rank in whose equal share of the frames its middle lies, so ranges differ by about
    one scene at most; with fewer scenes than ranks some are empty. Together they hold every frame exactly
    once.

    Args:
        scenes: the scene of each frame; the frames of a scene stand together.
        num_ranks: number of ranges.
    """
    lengths = [(token, sum(1 for _ in group)) for token, group in groupby(scenes)]
    if len({token for token, _ in lengths}) < len(lengths):
        raise ValueError('the frames of a scene must stand together')
    sizes = [0] * num_ranks
    start = 0
    for _, length in lengths:
        sizes[(2 * start + length) * num_ranks // (2 * len(scenes))] += length
        start += length
    ends = [sum(sizes[: rank + 1]) for rank in range(num_ranks)]
    return [range(end - size, end) for end, size in zip(ends, sizes)]


@DATA_SAMPLERS.register_module()
class SceneSampler(Sampler):
    """Frames in order, each scene whole on one rank, no frame twice.

    A temporal model carries its state from frame to frame, so a scene cut in two would be evaluated with
    a state that is missing or, worse, another scene's. MMEngine's DefaultSampler deals frames out in
    turns; this one gives every rank a contiguous range of scenes and pads nothing, so ranks may differ in
    length.

    What that asks of metrics: MMEngine's ``collect_results`` interleaves the parts of the ranks and cuts
    at the size of the dataset, which loses nothing here, but the results arrive in another order than the
    dataset's. Metrics must not identify a result by its position: reduce by sums, or carry the
    ``sample_idx``.

    Args:
        dataset: a dataset with ``scene_tokens()``.
        seed: given by MMEngine; nothing is random here.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        rank, num_ranks = get_dist_info()
        self.indices = split_scenes(dataset.scene_tokens(), num_ranks)[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """The order is always the same."""
