"""CheckpointHook: MMEngine's, but nothing half-written and never without a checkpoint to resume from."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import Runner

from ..checkpoint import atomic_write
from ..registry import HOOKS

ATOMIC = 'vadslim.atomic'


class AtomicBackend(LocalBackend):
    """Local files that appear under their name only when they are whole and on the disk."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes by a temporary name, fsync and rename."""
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
    - ``meta['config_json']`` holds the config as plain data, from which a run can be resumed without its
      config file.

    ``latest.pth`` is a relative symbolic link, or a hard link where there are none.

    Order: VERY_LOW as MMEngine's, so that it saves what the other hooks have done.
    """

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or {'backend': ATOMIC}, **kwargs)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the config as plain data."""
        text = config_to_text(runner.cfg)
        if text is not None:
            checkpoint['meta']['config_json'] = text

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            kept = [*self.keep_ckpt_ids, step]
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids.extend(kept)  # a deque of max_keep_ckpts: the outdated ones fall out
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
    """Find the checkpoint that ``last_checkpoint`` names, also when the folder was moved since."""
    folder = Path(work_dir)
    try:
        named = Path((folder / 'last_checkpoint').read_text(encoding='utf-8').strip())
    except OSError:
        return None
    return next((path for path in (folder / named.name, named) if named.name and path.is_file()), None)


def config_to_text(cfg: Config) -> str | None:
    """Write a config as JSON; tuples are tagged. None when it holds objects that are no data."""
    try:
        return json.dumps(_encode(cfg.to_dict()))
    except TypeError:
        return None


def config_from_text(text: str) -> dict:
    """Read what :func:`config_to_text` wrote; nothing is executed or imported.

    Raises:
        ValueError: it is not a JSON object.
    """
    data = _decode(json.loads(text))
    if not isinstance(data, dict):
        raise ValueError('not a JSON object')
    return data


def _encode(item: Any) -> Any:
    if isinstance(item, dict):
        if all(isinstance(key, str) for key in item):
            return {key: _encode(value) for key, value in item.items()}
        return {'__pairs__': [[_encode(key), _encode(value)] for key, value in item.items()]}
    if isinstance(item, tuple):
        return {'__tuple__': [_encode(value) for value in item]}
    if isinstance(item, list):
        return [_encode(value) for value in item]
    return item


def _decode(item: Any) -> Any:
    if isinstance(item, list):
        return [_decode(value) for value in item]
    if not isinstance(item, dict):
        return item
    if set(item) == {'__tuple__'}:
        return tuple(_decode(value) for value in item['__tuple__'])
    if set(item) == {'__pairs__'}:
        return {_decode(key): _decode(value) for key, value in item['__pairs__']}
    return {key: _decode(value) for key, value in item.items()}
