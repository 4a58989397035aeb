"""Processes and devices: who starts them, what they compute on, how they talk."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any
from unittest import mock

import mmengine.dist
import torch
from mmengine.config import Config

from .cli import UserError

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def count_processes(gpus: int | None, gpu_ids: Sequence[int] | None) -> int:
    """Get the number of processes that ``--gpus`` and ``--gpu-ids`` ask for.

    With CUDA, ``gpu_ids`` become the visible devices, counted within those already visible. Without CUDA only
    their number matters: that many CPU processes.

    Raises:
        UserError: no process, an id given twice, more GPUs than there are, or one that does not exist.
    """
    if gpus is not None and gpus < 1:
        raise UserError(f'--gpus {gpus}: at least 1 is needed')
    if not gpu_ids:
        count = gpus or 1
        if torch.cuda.is_available() and count > torch.cuda.device_count():
            raise UserError(f'--gpus {count}: this machine has {torch.cuda.device_count()}')
        return count
    if len(set(gpu_ids)) < len(gpu_ids):
        raise UserError(f'--gpu-ids {" ".join(map(str, gpu_ids))}: an id is given twice')
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        wrong = [number for number in gpu_ids if not 0 <= number < count]
        if wrong:
            raise UserError(f'--gpu-ids {wrong[0]}: no such GPU, this machine has {", ".join(map(str, range(count)))}')
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        names = visible.split(',') if visible else [str(number) for number in range(count)]
        # takes effect in the processes started from here: this one has already counted
        os.environ['CUDA_VISIBLE_DEVICES'] = ','.join(names[number] for number in gpu_ids)
    return len(gpu_ids)


def is_launched() -> bool:
    """Tell whether this process was started by torchrun, slurm or MPI as one of several."""
    return any(key in os.environ for key in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_LOCAL_RANK'))


def torchrun(script: str, argv: Sequence[str], processes: int) -> int:
    """Run a script under torchrun on this machine, on a free port (or ``$PORT``).

    Returns:
        Its exit code: that of the process that failed first.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    port = os.environ.get('PORT')
    where = [f'--master-port={port}'] if port else ['--standalone']
    try:
        run.run(run.parse_args([*where, f'--nproc-per-node={processes}', script, *argv]))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


def init_distributed(launcher: str, dist_cfg: dict[str, Any] | None = None) -> None:
    """Join the other processes by :func:`mmengine.dist.init_dist`; over gloo where there is no CUDA.

    Raises:
        UserError: nothing launched this process, or it has no GPU of its own.
    """
    if launcher == 'none' or mmengine.dist.is_distributed():
        return
    if launcher == 'pytorch' and not {'RANK', 'WORLD_SIZE', 'LOCAL_RANK'} <= set(os.environ):
        raise UserError('--launcher pytorch: no torchrun started this; use tools/dist_*.sh, torchrun or --gpus N')
    dist_cfg = dict(dist_cfg or {'backend': 'nccl'})
    with contextlib.ExitStack() as stack:
        if torch.cuda.is_available():
            rank, count = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
            if rank >= count:
                raise UserError(f'process {rank} on this machine has no GPU: there are {count}')
        else:
            dist_cfg['backend'] = 'gloo'
            # init_dist chooses a CUDA device for every launcher; where there is none that is an error
            stack.enter_context(mock.patch.object(torch.cuda, 'set_device', lambda device: None))
        mmengine.dist.init_dist(launcher, **dist_cfg)


def adapt_to_device(cfg: Config, launcher: str) -> None:
    """Let a config for GPUs run without: gloo between processes, and a DDP that names no device."""
    cfg.launcher = launcher
    if launcher == 'none' or torch.cuda.is_available():
        return
    cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', {})['backend'] = 'gloo'
    wrapper = cfg.get('model_wrapper_cfg') or {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}


def start_processes(
    argv: Sequence[str], script: str, gpus: int | None, gpu_ids: Sequence[int] | None, launcher: str
) -> int | None:
    """Start torchrun when several processes are asked for and nothing has started them.

    Returns:
        None if this process is to do the work, else the exit code of those that did it.
    """
    if launcher == 'none' and not is_launched() and (gpus is not None or gpu_ids):
        processes = count_processes(gpus, gpu_ids)
        if processes > 1:
            return torchrun(script, [*argv, '--launcher', 'pytorch'], processes)
    return None
