"""RandomStateHook: a resumed training draws the numbers that the uninterrupted one would have drawn."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS

EPOCH_STRIDE = 1_000_003  # workers get seed + rank and worker numbers: epochs stay apart from these


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Seed each epoch with seed + epoch, and keep python's, numpy's and torch's states of every rank.

    MMEngine's checkpoints hold no random state. Here an epoch's draws depend on the seed and the epoch alone,
    so that training may be resumed at every border of epochs; the states that stand at the border are stored
    under the key ``random_state`` and put back for what draws before the next epoch begins. Data-loading
    workers are seeded per epoch too; they are started anew for each epoch, because the state of a worker that
    lives on (``persistent_workers``) is in no checkpoint.

    Order: VERY_HIGH, so that an epoch is seeded before other hooks draw, and states are taken before
    CheckpointHook (VERY_LOW) saves.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._at_border: list[dict[str, Any]] | None = None  # of all ranks
        self._resumed: list[dict[str, Any]] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the states along; they are used only when the run is resumed."""
        self._resumed = checkpoint.get('random_state')

    def before_train(self, runner: Runner) -> None:
        """Put the states back when the run is resumed."""
        states, self._resumed = self._resumed, None
        if runner.iter == 0 and runner.epoch == 0:
            return
        if states is not None and len(states) == get_world_size():
            set_random_state(states[get_rank()])
            self._at_border = states  # for a checkpoint that is written anew before the next epoch
        elif states is not None:
            now = get_world_size()
            runner.logger.warning(f'The checkpoint has random states of {len(states)} processes, not {now}.')
        sampler = getattr(runner.train_dataloader, 'sampler', None)
        differ = (runner.cfg.get('randomness') or {}).get('diff_rank_seed')
        if not differ and isinstance(getattr(sampler, 'seed', None), int):
            sampler.seed = runner.seed  # MMEngine built it before it read the seed in the checkpoint

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed this process and the coming workers."""
        self._at_border = None
        seed = runner.seed + runner.epoch
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)  # all CUDA devices too
        loader = runner.train_dataloader
        if loader.num_workers > 0:
            loader.worker_init_fn = _WorkerSeed(
                loader.num_workers, get_rank(), (runner.seed + EPOCH_STRIDE * runner.epoch) % 2**31
            )
            loader._iterator = None  # persistent workers: shut down, new ones take the seed

    def after_train_epoch(self, runner: Runner) -> None:
        """Gather the states of all ranks: only rank 0 is called to save."""
        self._at_border = all_gather_object(random_state())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the states; a checkpoint inside an epoch gets none, as nothing is resumed there."""
        if self._at_border is not None:
            checkpoint['random_state'] = self._at_border


class _WorkerSeed:
    """MMEngine's worker_init_fn with its numbers; a class, so that it can be sent to a spawned worker."""

    def __init__(self, num_workers: int, rank: int, seed: int) -> None:
        self.num_workers, self.rank, self.seed = num_workers, rank, seed

    def __call__(self, worker_id: int) -> None:
        worker_init_fn(worker_id, self.num_workers, self.rank, self.seed)


def random_state() -> dict[str, Any]:
    """Get the states of python, numpy, torch and the current CUDA device as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    state = {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` gave; tensors may have moved to another device on the way."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
