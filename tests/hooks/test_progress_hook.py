"""ProgressHook: a bar on a terminal, and nothing else."""

import os
import sys
import threading
import time

import pytest
from mmengine.config import Config

from vadslim import experiment
from vadslim.hooks import ProgressHook
from vadslim.testing import toy_config, toy_runner

ERASE, HIDE, SHOW = '\x1b[2K', '\x1b[?25l', '\x1b[?25h'


class Terminal:
    """A terminal that remembers what was written to it."""

    def __init__(self):
        self.leader, follower = os.openpty()
        self.file = os.fdopen(follower, 'w')
        self.parts = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        try:
            while data := os.read(self.leader, 65536):
                self.parts.append(data)
        except OSError:  # its other end is closed
            pass

    def close(self):
        """All that was written."""
        self.file.close()
        self.reader.join(10)
        os.close(self.leader)
        return b''.join(self.parts).decode()


@pytest.fixture
def attach(monkeypatch):
    """Let standard output and error be a terminal: called in the test, for pytest sets them before it."""

    def attach():
        monkeypatch.setenv('TERM', 'xterm')
        monkeypatch.setenv('COLUMNS', '100')
        terminal = Terminal()
        monkeypatch.setattr(sys, 'stdout', terminal.file)
        monkeypatch.setattr(sys, 'stderr', terminal.file)
        return terminal

    return attach


def runner_of(tmp_path, hook, **changes):
    runner = toy_runner(toy_config(tmp_path, epochs=2, **changes))
    runner.register_hook(hook)
    return runner


def test_a_terminal(tmp_path, attach):
    terminal = attach()
    hook = ProgressHook('dense', interval=0)
    before = sys.stdout, sys.stderr
    runner = runner_of(tmp_path, hook, log_level='INFO')
    streams = [getattr(handler, 'stream', None) for handler in runner.logger.handlers]
    runner.train()
    assert (sys.stdout, sys.stderr) == before
    assert [getattr(handler, 'stream', None) for handler in runner.logger.handlers] == streams
    text = terminal.close()
    assert 'dense  epoch 1/2' in text and 'dense  epoch 2/2  loss ' in text
    assert '8/8' in text and '  validation' in text and '4/4' in text
    drawn, _, rest = text.rpartition(SHOW)
    assert HIDE in drawn and ERASE in rest  # the cursor is back, the bar is not there
    lines = [line for line in text.split('\n') if 'Epoch(train)' in line]
    assert len(lines) == 8 and not any('━' in line.rpartition(ERASE)[2] for line in lines)  # the log is above the bar


def test_a_failure_gives_the_terminal_back(tmp_path, attach):
    terminal = attach()
    hook = ProgressHook(interval=0)
    runner = runner_of(tmp_path, hook)
    before = sys.stderr
    runner.model.train_step = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert sys.stderr is not before
    hook.stop()
    hook.stop()
    assert sys.stderr is before
    assert SHOW in terminal.close()


def test_the_next_bar_erases_one_that_failed(tmp_path, attach):
    terminal = attach()
    runners = [runner_of(tmp_path, ProgressHook(name, interval=0)) for name in ('first', 'second')]
    before = sys.stderr
    runners[0].model.train_step = lambda *_, **__: (_ for _ in ()).throw(RuntimeError)
    with pytest.raises(RuntimeError):
        runners[0].train()
    runners[1].train()
    assert sys.stderr is before
    text = terminal.close()
    assert text.count(HIDE) == text.count(SHOW) == 2 and 'first' not in text.split(SHOW)[1]


def test_a_test_and_a_validation_alone(tmp_path, attach):
    for work in ('test', 'val'):
        terminal = attach()
        before = sys.stderr
        runner = runner_of(tmp_path, ProgressHook('slim', interval=0))
        getattr(runner, work)()
        assert sys.stderr is before
        text = terminal.close()
        name = 'slim  test' if work == 'test' else 'slim  validation'
        assert name in text and f'{name}: metrics' in text and '4/4' in text and 'epoch' not in text


def test_lines_stay_whole(tmp_path, attach):
    terminal = attach()
    runner = runner_of(tmp_path, ProgressHook(interval=0))
    line = 'to go on: ' + 'word ' * 50
    runner.model.register_forward_pre_hook(lambda *_: print(line, file=sys.stderr))
    runner.train()
    assert line in terminal.close()  # 100 columns have no room for it


def test_every_runner_has_one(tmp_path):
    own = {'type': 'vadslim.ProgressHook', 'interval': 3.0}
    for number, given in enumerate(([], [own])):
        cfg = Config(toy_config(tmp_path, custom_hooks=given, experiment_name=f'bar_{tmp_path.name}_{number}'))
        hooks = [hook for hook in experiment.build_runner(cfg, 'x').hooks if isinstance(hook, ProgressHook)]
        assert [hook.interval for hook in hooks] == [3.0 if given else 0.5]
        assert cfg.custom_hooks == given  # and in no file that tells of the run


def test_no_terminal(tmp_path, capsys):
    hook = ProgressHook(interval=0)
    before = sys.stderr
    runner = runner_of(tmp_path, hook)
    seen = []
    runner.model.register_forward_pre_hook(lambda *_: seen.append(sys.stderr is before))
    runner.train()
    assert len(seen) > 8 and all(seen)
    assert '\x1b[?25' not in ''.join(capsys.readouterr())


def test_other_ranks_draw_nothing(tmp_path, attach, monkeypatch):
    terminal = attach()
    monkeypatch.setattr('vadslim.hooks.progress_hook.is_main_process', lambda: False)
    runner_of(tmp_path, ProgressHook(interval=0)).train()
    assert HIDE not in terminal.close()


def test_iterations_without_epochs(tmp_path, attach):
    terminal = attach()
    loop = {'type': 'IterBasedTrainLoop', 'max_iters': 3, 'val_interval': 5}
    runner_of(tmp_path, ProgressHook('x', interval=0), train_cfg=loop, param_scheduler=None).train()
    text = terminal.close()
    assert '3/3' in text and 'epoch' not in text


def test_it_costs_next_to_nothing(tmp_path, attach):
    """Between two drawings an iteration costs microseconds; a drawing, milliseconds every half second."""
    attach()
    hook = ProgressHook()
    runner = runner_of(tmp_path, hook)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)

    def seconds(times, interval):
        hook.interval = interval
        begun = time.process_time()
        for _ in range(times):
            hook.after_train_iter(runner, 0)
        return (time.process_time() - begun) / times

    idle, drawing = seconds(1000, 1000), seconds(20, 0)
    hook.stop()
    assert idle < 1e-4 and drawing < 0.05, (idle, drawing)
