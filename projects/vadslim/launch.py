"""Processes and devices: who starts them, what they compute on, how they talk."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from unittest import mock

import torch  # MMEngine is imported later: it looks for devices when it is imported

from .cli import UserError, say

if TYPE_CHECKING:
    from mmengine.config import Config

T = TypeVar('T')

# launcher -> who starts its processes, and what is set in them
STARTERS = {'slurm': ('srun', 'SLURM_PROCID'), 'mpi': ("Open MPI's mpirun", 'OMPI_COMM_WORLD_LOCAL_RANK')}


class Machine(NamedTuple):
    """What a command runs on.

    Attributes:
        device: 'cuda' or 'cpu'.
        launcher: who started this process, 'none' if it works alone.
        processes: to be started by :func:`torchrun`; 0 if this process does the work.
    """

    device: str
    launcher: str
    processes: int


def choose_machine(
    gpus: int | None, gpu_ids: Sequence[int] | None, launcher: str | None, device: str | None = None
) -> Machine:
    """Choose devices and processes, and let exactly the asked-for GPUs be visible, numbered from 0.

    To be called once, before MMEngine is imported.

    Args:
        gpus: number of processes, each on a GPU of its own; without CUDA they compute on the CPU.
        gpu_ids: which of the visible GPUs; they count instead of ``gpus``. Without CUDA only their number does.
        launcher: None if the user named none.
        device: 'cpu', 'cuda', or None for CUDA where there is one.

    Raises:
        UserError: a GPU that does not exist or is named twice, no CUDA, or a launcher that contradicts torchrun.
    """
    if gpu_ids and len(set(gpu_ids)) < len(gpu_ids):
        raise UserError(f'--gpu-ids {" ".join(map(str, gpu_ids))}: an id is given twice')
    if gpu_ids and gpus not in (None, len(gpu_ids)):
        say(f'--gpus {gpus} is ignored: --gpu-ids names {len(gpu_ids)}')
    launcher, processes = _choose_launcher(launcher, len(gpu_ids or ()) or gpus or 1)
    # who started several processes has chosen their GPUs
    narrow = gpu_ids or (range(gpus) if gpus and (processes or launcher == 'none') else None)
    return Machine(_choose_devices(narrow, device, bool(gpu_ids)), launcher, processes)


def _choose_launcher(launcher: str | None, wanted: int) -> tuple[str, int]:
    """(launcher, processes to start)."""
    if {'RANK', 'WORLD_SIZE'} <= set(os.environ):  # torchrun started this process
        if launcher == 'none' and int(os.environ['WORLD_SIZE']) > 1:
            raise UserError('--launcher none in a process that torchrun started: use --launcher pytorch')
        return launcher or 'pytorch', 0
    if launcher == 'pytorch' or (launcher is None and wanted > 1):
        return 'pytorch', wanted
    if launcher == 'none' and wanted > 1:
        say(f'--launcher none: one process does the work, not {wanted}; leave it out to use all')
    return launcher or 'none', 0


def _choose_devices(ids: Sequence[int] | None, device: str | None, named: bool) -> str:
    count = 0 if device == 'cpu' else torch.cuda.device_count()
    if not count:
        if device == 'cuda':
            raise UserError('--device cuda: no CUDA device is visible on this machine')
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        return 'cpu'
    missing = [number for number in ids or () if number >= count]
    if missing:
        what = f'--gpu-ids {missing[0]}' if named else f'--gpus {len(ids or ())}'
        raise UserError(f'{what}: this machine shows {count} GPU{"s" * (count > 1)}, ids 0 to {count - 1}')
    if ids:
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        names = visible.split(',') if visible else [str(number) for number in range(count)]
        os.environ['CUDA_VISIBLE_DEVICES'] = ','.join(names[number] for number in ids)
    return 'cuda'


def torchrun(module: str, argv: Sequence[str], processes: int) -> int:
    """Run ``python -m module argv`` in several processes of this machine by torchrun.

    ``$PORT`` is the port (default: a free one); ``$NNODES``, ``$NODE_RANK`` and ``$MASTER_ADDR`` are those of
    MMEngine's scripts, for several machines.

    Args:
        module: takes what ``cli.add_machine_options`` adds.
        argv: its arguments.
        processes: how many; the GPUs are narrowed to as many by now.

    Returns:
        The exit code of the process that failed first, or 0.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after all of them have ended.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    root = str(Path(__file__).parents[1])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    threads = 1 if torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // processes)
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):  # or torchrun and MMEngine take 1, with warnings
        os.environ.setdefault(name, str(threads))
    for name in list(logging.root.manager.loggerDict):
        if name.startswith('torch.distributed.elastic'):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is said by the process itself
    where = ['--standalone']
    if 'PORT' in os.environ or os.environ.get('NNODES', '1') != '1':
        names = {'--nnodes': 'NNODES', '--node-rank': 'NODE_RANK', '--master-addr': 'MASTER_ADDR'}
        where = [f'{option}={os.environ[name]}' for option, name in names.items() if name in os.environ]
        where.append(f'--master-port={os.environ.get("PORT", 29500)}')
    command = [*where, f'--nproc-per-node={processes}', '-m', module, *argv, '--launcher', 'pytorch']
    command += ['--gpus', str(processes), '--gpu-ids', *map(str, range(processes))]
    try:
        run.run(run.parse_args(command))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            say(f'error: process {rank} was ended by {signal.Signals(-failure.exitcode).name}')
            return 128 - failure.exitcode
        return failure.exitcode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    return 0


def init_distributed(launcher: str, dist_cfg: dict[str, Any] | None = None) -> None:
    """Join the other processes by :func:`mmengine.dist.init_dist`; over gloo where there is no CUDA.

    Raises:
        UserError: nothing of this launcher started this process, or it has no GPU of its own.
    """
    import mmengine.dist

    if launcher == 'none' or mmengine.dist.is_distributed():
        return
    starter, mark = STARTERS.get(launcher, ('', ''))
    if mark and mark not in os.environ:
        raise UserError(f'--launcher {launcher}: {starter} did not start this process (${mark} is not set)')
    if launcher == 'mpi':
        # MMEngine leaves out LOCAL_RANK, by which its Runner chooses a device, and wants to be told where rank 0 is
        os.environ.setdefault('LOCAL_RANK', os.environ[mark])
        if 'MASTER_ADDR' not in os.environ:
            if os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') != os.environ.get('OMPI_COMM_WORLD_SIZE'):
                raise UserError('--launcher mpi on several machines: $MASTER_ADDR must name the one of rank 0')
            os.environ['MASTER_ADDR'] = '127.0.0.1'
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
        if multiprocessing.get_start_method(allow_none=True) is None:
            multiprocessing.set_start_method('fork')  # as the Runner does; init_dist would choose another
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


def on_rank_0(work: Callable[[], T]) -> T:
    """Do something on rank 0 while the others wait, and give its result, or its error, to all of them."""
    from mmengine.dist import broadcast_object_list, get_rank, is_distributed

    if not is_distributed():
        return work()
    outcome: list = [None]
    if get_rank() == 0:
        try:
            outcome = [(True, work())]
        except BaseException as error:
            broadcast_object_list([(False, str(error) or type(error).__name__)], src=0)
            raise
    broadcast_object_list(outcome, src=0)
    done, result = outcome[0]
    if not done:
        raise UserError(f'rank 0: {result}')
    return result
