"""CheckpointHook: MMEngine's, but nothing half-written and never without a checkpoint to resume from."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import Runner

from ..checkpoint import atomic_write, write_errors
from ..checkpoint_format import label
from ..registry import HOOKS
from .old_run import advance_schedulers, fit_optimizer

ATOMIC = 'vadslim.atomic'
LATEST = 'checkpoint_latest.pth'  # of a stage


class AtomicBackend(LocalBackend):
    """Local files that appear under their name only when they are whole and on the disk."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes by a temporary name, fsync and rename.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written; what stood there before stays.
        """
        with write_errors(filepath):
            Path(filepath).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(filepath, 'wb') as file:
                file.write(obj)


register_backend(ATOMIC, AtomicBackend, force=True)


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """Save checkpoints that a kill at any time cannot spoil.

    What differs from MMEngine's hook, whose arguments it takes:

    - a checkpoint is written under a temporary name, synced and renamed;
    - then ``last_checkpoint`` (from which a run is resumed) and ``latest.pth`` are changed, each by a rename,
      and only then are outdated checkpoints removed: MMEngine removes first, and a kill in between leaves
      none;
    - it is in the format of :mod:`vadslim.checkpoint_format`: the config is plain data, from which a run can be
      resumed without its config file, and takes the place of the Python text that MMEngine stores twice.

    ``latest.pth`` is a relative symbolic link, or a hard link where there are none.

    Order: VERY_LOW as MMEngine's, so that it saves what the other hooks have done.
    """

    _old = False  # the checkpoint that was loaded is in an old layout
    stage: str | None = None  # of a staged run
    config: Mapping[str, Any] | None = None  # what is stored in place of the Runner's own

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or {'backend': ATOMIC}, **kwargs)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Fit what was saved in an old layout to this run."""
        self._old = fit_optimizer(runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Go on with the schedule of this run, if a checkpoint in an old layout is resumed."""
        super().before_train(runner)
        if self._old and runner.epoch:
            advance_schedulers(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make it a checkpoint of our format."""
        name, value = self._best(runner)
        config = self.config or runner.cfg.to_dict()
        checkpoint.update(label(checkpoint['meta'].get('epoch'), config, value, name, self.stage))
        if checkpoint['config'] is not None:
            hub = checkpoint['message_hub']
            for part in (checkpoint['meta'], hub['runtime_info'], hub['resumed_keys']):
                part.pop('cfg', None)

    def _best(self, runner: Runner) -> tuple[str | None, Any]:
        """The name of the first metric of ``save_best``, and its best value so far; None for what is not known."""
        name = self.key_indicators[0] if self.save_best else None
        if name is None or name == 'auto':
            return None, None
        key = 'best_score' if len(self.key_indicators) == 1 else f'best_score_{name}'
        return name, runner.message_hub.runtime_info.get(key)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            kept = [*self.keep_ckpt_ids, step]
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        with atomic_write(Path(runner.work_dir) / 'last_checkpoint') as file:
            file.write(str(self.last_ckpt))
        if Path(self.last_ckpt).is_file():
            link(Path(self.last_ckpt), Path(self.out_dir) / 'latest.pth')
        for step in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)


def link(target: Path, name: Path) -> None:
    """Let ``name``, in the folder of ``target``, be another name of it, changed by a rename."""
    temporary = name.with_name(f'.{name.name}.{os.getpid()}.tmp')
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target.name)
    except OSError:  # a file system without symbolic links
        with contextlib.suppress(OSError):
            os.link(target, temporary)
    if temporary.is_symlink() or temporary.exists():
        temporary.replace(name)


def find_latest(work_dir: str | os.PathLike) -> Path | None:
    """Find the checkpoint that ``last_checkpoint`` names, also when the folder was moved since, or a stage's latest."""
    folder = Path(work_dir)
    try:
        named = Path((folder / 'last_checkpoint').read_text(encoding='utf-8').strip())
    except OSError:
        named = Path(LATEST)  # a kill came between the first checkpoint and the line
    return next((path for path in (folder / named.name, named) if named.name and path.is_file()), None)
