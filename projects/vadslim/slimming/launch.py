"""Which devices, how many processes, and who starts them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from vadslim.cli import UserError
from vadslim.slimming.options import Options

T = TypeVar('T')


def choose_devices(options: Options) -> str:
    """Makes exactly the asked-for GPUs visible and returns 'cuda' or 'cpu'.

    To be called once, before MMEngine is imported (it looks for devices then). Afterwards they are numbered
    from 0.

    Raises:
        UserError: for a GPU that does not exist, or CUDA on a machine that has none.
    """
    import torch

    count = 0 if options.device == 'cpu' else torch.cuda.device_count()
    if not count:
        if options.device == 'cuda':
            raise UserError('--device cuda: no CUDA device is visible on this machine')
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        return 'cpu'
    ids = options.gpu_ids if options.gpu_ids is not None else tuple(range(options.gpus))
    missing = [i for i in ids if i >= count]
    if missing:
        what = f'--gpu-ids {missing[0]}' if options.gpu_ids else f'--gpus {options.gpus}'
        raise UserError(f'{what}: this machine shows {count} GPU{"s" * (count > 1)}, ids 0 to {count - 1}')
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = visible.split(',') if visible else [str(i) for i in range(count)]
    if started_by_torchrun() and options.gpu_ids is None:
        return 'cuda'  # the one who started the processes has chosen
    os.environ['CUDA_VISIBLE_DEVICES'] = ','.join(names[i] for i in ids)
    return 'cuda'


def started_by_torchrun() -> bool:
    """Whether this process is one of several that a launcher of torch started."""
    return 'RANK' in os.environ and 'WORLD_SIZE' in os.environ


def choose_launcher(options: Options, warn: Callable[[str], None]) -> tuple[str, int]:
    """(launcher, processes to start here): with 0 this process works itself, else it starts that many."""
    launcher = options.launcher
    if started_by_torchrun():
        if launcher == 'none' and int(os.environ['WORLD_SIZE']) > 1:
            raise UserError('--launcher none in a process that torchrun started: use --launcher pytorch')
        return launcher or 'pytorch', 0
    if launcher in (None, 'pytorch') and options.gpus > 1 or launcher == 'pytorch':
        return 'pytorch', options.gpus
    if launcher == 'none' and options.gpus > 1:
        warn(f'--launcher none: one process does the work, not {options.gpus}; leave it out to use all')
    return launcher or 'none', 0


def start_processes(argv: Sequence[str], count: int) -> int:
    """Runs this command in ``count`` processes by torchrun.

    Returns:
        The exit code of the process that failed first, or 0.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after all of them have ended.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    import vadslim

    root = str(Path(vadslim.__file__).parents[1])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    port = os.environ.get('PORT')
    where = [f'--master-port={port}'] if port else ['--standalone']
    ids = [str(i) for i in range(count)]  # CUDA_VISIBLE_DEVICES is already narrowed
    command = [*where, f'--nproc-per-node={count}', '-m', 'vadslim.slimming.cli', *argv]
    command += ['--launcher', 'pytorch', '--gpus', str(count), '--gpu-ids', *ids]
    try:
        run.run(run.parse_args(command))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    return 0


def on_rank_0(work: Callable[[], T]) -> T:
    """Does something on rank 0 while the others wait, and gives its result, or its error, to all of them."""
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
