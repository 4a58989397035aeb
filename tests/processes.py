"""Commands in processes of their own, for tests of signals and of what a killed command leaves behind."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch.distributed.run
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from vadslim import cli


class Forked:
    """A command in a fork of this process, which need not import torch anew; otherwise as a ``Popen`` with pipes.

    Args:
        main: of the command; its result is the exit code.
        argv: its arguments.
        cwd: where it works.
        env: what is set in its environment besides.
        before: is called in it first.
    """

    def __init__(
        self,
        main: Callable[[Sequence[str]], int | None],
        argv: Sequence[object],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        pipes = [os.pipe(), os.pipe()]

        def work() -> None:
            for number, (_, end) in enumerate(pipes, 1):
                os.dup2(end, number)
            for end in (end for pipe in pipes for end in pipe):
                os.close(end)
            # not closed with these objects, which a fork of this fork replaces
            sys.stdout, sys.stderr = (os.fdopen(number, 'w', closefd=False) for number in (1, 2))
            for kind in (MMLogger, MessageHub, DefaultScope, Visualizer):  # what this process's Runners have left
                kind._instance_dict.clear()
            os.environ.update(env or {})
            os.chdir(cwd or '.')
            if before:
                before()
            sys.exit(main([str(argument) for argument in argv]))

        self._process = multiprocessing.get_context('fork').Process(target=work)
        self._process.start()
        for _, end in pipes:
            os.close(end)
        self.stdout, self.stderr = (os.fdopen(end) for end, _ in pipes)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None as long as it runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """To the process alone."""
        os.kill(self._process.pid, number)

    def wait(self, timeout: float) -> int:
        """For its end; the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f'still running after {timeout} s')
        return code

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it says, to the end of all that hold its pipes."""
        with ThreadPoolExecutor(2) as pool, self.stdout, self.stderr:
            said = [pool.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            self.wait(timeout)
            return said[0].result(timeout), said[1].result(timeout)


def free_port() -> str:
    """One of this machine that nobody listens at just now."""
    with socket.socket() as place:
        place.bind(('127.0.0.1', 0))
        return str(place.getsockname()[1])


def fork_ranks(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[object],
    cwd: Path | None = None,
    before: Sequence[Callable[[], object] | None] = (None, None),
) -> list[Forked]:
    """A command in two forks of this process, with the environment that torchrun gives them.

    Args:
        main: of the command.
        argv: its arguments, among them --launcher pytorch.
        cwd: where it works.
        before: of each of them.
    """
    shared = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port()}
    return [
        Forked(main, argv, cwd, {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}, act)
        for rank, act in enumerate(before)
    ]


def finish_ranks(ranks: Sequence[Forked], timeout: float = 200) -> list[tuple[str, str]]:
    """What each of them says, to its end; both must end well."""
    with ThreadPoolExecutor(len(ranks)) as pool:  # one whose pipe is full would hold up the other
        said = list(pool.map(lambda rank: rank.communicate(timeout), ranks))
    codes = [rank.returncode for rank in ranks]
    assert codes == [0, 0], (codes, said)
    return said


def fork_for_torchrun() -> None:
    """To be called before a launcher: what torchrun would start anew, each to import torch, it forks."""
    torch.distributed.run.run = _fork_module


def _fork_module(args: argparse.Namespace) -> None:
    assert (args.module, args.nproc_per_node) == (True, '2')

    def module(argv: Sequence[str]) -> None:
        sys.argv[1:] = argv
        cli._RUNNING.clear()  # the launcher's command is not this process's
        runpy.run_module(args.training_script, run_name='__main__', alter_sys=True)

    for said, complaint in finish_ranks(fork_ranks(module, args.training_script_args)):
        sys.stdout.write(said)
        sys.stderr.write(complaint)
