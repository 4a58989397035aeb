"""A staged run of two processes over gloo: files are written once, and what is killed ends as what was not."""

import signal

import pytest
import torch
from stage_toys import write_stages
from test_stage_kill import COMMAND, STAGES, assert_same, iteration, left, no_environment_report  # noqa: F401

from processes import finish_ranks, fork_ranks
from vadslim.checkpoint import load_checkpoint
from vadslim.staged import cli
from vadslim.testing import ToyAccuracy

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')


def start(folder, before=(None, None)):
    """Both ranks, as torchrun starts them."""
    if not folder.exists():
        folder.mkdir()
        write_stages(folder)
    return fork_ranks(cli.main, [*COMMAND, '--launcher', 'pytorch'], folder, before)


def finish(folder):
    return [complaint for _, complaint in finish_ranks(start(folder))]


def test_killed_and_started_again(tmp_path, monkeypatch):
    def process(metric, _, samples):  # finer than what is right: it shows what either rank has validated
        metric.results += [float(sample['scores'][sample['label']]) for sample in samples]

    monkeypatch.setattr(ToyAccuracy, 'process', process)
    finish(tmp_path / 'whole')
    expected = left(tmp_path / 'whole')
    for stage, epochs in STAGES.items():
        folder = tmp_path / 'whole' / 'out' / stage
        assert len(list(folder.glob('*/*.log'))) == 1
        latest = load_checkpoint(folder / 'checkpoint_latest.pth')
        assert latest['meta']['iter'] == epochs and len(latest['random_state']) == 2  # half the pictures for each

    folder = tmp_path / 'killed'
    ranks = start(folder, [None, iteration('one', 1)])  # one of them: the other cannot go on
    assert [rank.wait(60) for rank in ranks][1] == -signal.SIGKILL and ranks[0].returncode not in (0, -signal.SIGKILL)
    assert load_checkpoint(folder / 'out' / 'one' / 'checkpoint_latest.pth')['epoch'] == 1
    ranks = start(folder, [iteration('two', 2), None])
    assert ranks[0].wait(60) == -signal.SIGKILL
    ranks[1].send_signal(signal.SIGKILL)
    assert ranks[1].wait(60) != 0  # it may have ended just before, for want of the other
    said, other = finish(folder)
    assert said.count('done already, reused') == 1 and 'goes on from' in said and 'stage 1 of 2' not in other
    assert_same(left(folder), expected)
