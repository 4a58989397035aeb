"""Whatever a user does wrong: one line that says what, exit code 2, and nothing written."""

import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from processes import Forked
from vadslim.slimming import main

SLIM = 'vad_structured_pruned.pth'


def everything(folder):
    """Every file below a folder with its content, but for compiled configs."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob('*'))
        if '__pycache__' not in path.parts
    }


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def says_one_line(result, *words):
    code, _, err = result
    assert code == 2
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0]
    assert 'Traceback' not in err


@pytest.mark.parametrize('option', ['--pruning-ratio', '--structured-ratio', '--unstructured-ratio'])
@pytest.mark.parametrize('ratio', ['1', '1.5', '-0.1', 'nan', 'inf', 'half'])
def test_ratio(command, folder, option, ratio):
    before = everything(folder)
    says_one_line(command('toy.py', 'random', f'{option}={ratio}'), option, ratio, 'at least 0 and below 1')
    assert everything(folder) == before


@pytest.mark.parametrize(
    'args, words',
    [
        ((), ['config', 'checkpoint']),
        (('toy.py',), ['checkpoint']),
        (('no.py', 'random'), ['no.py', 'does not exist']),
        (('.', 'random'), ['is a folder']),
        (('toy.py', 'no.pth'), ['no.pth', 'does not exist', 'random']),
        (('toy.py', '.'), ['is a folder']),
        (('toy.py', 'random', '--retrain'), ['--retrain', '--fine-tune --retrain']),
        (('toy.py', 'random', '--fine-tune-epochs', '0'), ['--fine-tune-epochs', 'at least 1']),
        (('toy.py', 'random', '--fine-tune-epochs', '1.5'), ['--fine-tune-epochs', 'whole number']),
        (('toy.py', 'random', '--gpus', '0'), ['--gpus', 'at least 1']),
        (('toy.py', 'random', '--gpu-ids', '0', '0'), ['--gpu-ids', 'twice']),
        (('toy.py', 'random', '--gpu-ids', '-1'), ['--gpu-ids']),
        (('toy.py', 'random', '--workers', '-1'), ['--workers', 'at least 0']),
        (('toy.py', 'random', '--launcher', 'ssh'), ['--launcher', 'pytorch']),
        (('toy.py', 'random', '--prune'), ['--prune']),
        (('toy.py', 'random', '--pruning', '0.1'), ['--pruning']),
        (('toy.py', 'random', '--importance', 'L7'), ['L7', 'L2']),
        (('toy.py', 'random', '--allocation', 'fair'), ['fair', 'uniform']),
        (('toy.py', 'random', '--targets', 'conv9*'), ['conv9*', 'conv']),
        (('toy.py', 'random', '--protect', 'kind:hat'), ['kind:hat', 'kind:head']),
        (('toy.py', 'random', '--cfg-options', 'model.chanels=4'), ['model.chanels', 'nearest']),
        (('toy.py', 'random', '--cfg-options', 'model.channels'), ['key=value']),
        (('toy.py', 'random', '--cfg-options', 'model.channels=-4'), ['toy.py', 'cannot be built']),
        (('toy.py', 'random', '--cfg-options', 'model.type=vadslim.NoNet'), ['toy.py', 'NoNet']),
        (('toy.py', 'random', '--output-dir', 'toy.py'), ['toy.py', 'not a folder']),
        (('toy.py', 'random', '--output-dir', 'toy.py/out'), ['toy.py', 'not a folder']),
        (('toy.py', 'random', '--output-dir', 'foreign'), ['foreign', 'not of vadslim']),
        (('toy.py', 'random', '--output-dir', 'foreign', '--overwrite'), ['foreign', 'not of vadslim']),
        (('nomodel.py', 'random'), ['nomodel.py', 'model']),
        (('broken.py', 'random'), ['broken.py', 'SyntaxError']),
        (('untrained.py', 'random', '--fine-tune'), ['untrained.py', 'train_dataloader']),
    ],
    ids=lambda value: ' '.join(value[-2:]) if isinstance(value, tuple) else '',
)
def test_arguments(command, folder, args, words):
    (folder / 'foreign').mkdir()
    (folder / 'foreign' / 'thesis.txt').write_text('mine')
    (folder / 'nomodel.py').write_text('a = 1\n')
    (folder / 'broken.py').write_text('model = dict(\n')
    (folder / 'untrained.py').write_text("_base_ = ['toy.py']\ntrain_dataloader = None\n")
    before = everything(folder)
    says_one_line(command(*args), *words)
    assert everything(folder) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is CUDA')
def test_cuda_where_there_is_none(command):
    says_one_line(command('toy.py', 'random', '--device', 'cuda'), '--device cuda', 'no CUDA')


def test_launcher_none_among_several(command, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    says_one_line(command('toy.py', 'random', '--launcher', 'none'), '--launcher none', '--launcher pytorch')


class RunsCode:
    def __reduce__(self):
        return os.system, ('touch executed',)


def write_bad(path, kind):
    if kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('not a checkpoint')
    elif kind == 'truncated':
        torch.save({'state_dict': {'a': torch.zeros(1000)}}, path)
        path.write_bytes(path.read_bytes()[:-600])
    elif kind == 'code':
        torch.save({'state_dict': {'a': torch.zeros(3)}, 'meta': RunsCode()}, path)
    elif kind == 'code, old format':
        path.write_bytes(pickle.dumps({'state_dict': RunsCode()}, protocol=2))
    elif kind == 'a list':
        torch.save([1, 2], path)
    elif kind == 'no weights':
        torch.save({'meta': {'epoch': 3}}, path)
    elif kind == 'another zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a.txt', 'hello')
    elif kind == 'another network':
        torch.save({'state_dict': torch.nn.Linear(3, 2).state_dict()}, path)


@pytest.mark.parametrize(
    'kind, words',
    [
        ('empty', ['empty']),
        ('text', ['not a checkpoint']),
        ('truncated', ['truncated or damaged']),
        ('code', ['system', 'refused']),
        ('code, old format', ['refused']),
        ('a list', ['list']),
        ('no weights', ['no state_dict', 'meta']),
        ('another zip', ['bad.pth']),
        ('another network', ['ToyNet', 'conv1.weight is missing', 'and']),
    ],
)
def test_bad_checkpoint(command, folder, kind, words):
    write_bad(folder / 'bad.pth', kind)
    before = everything(folder)
    says_one_line(command('toy.py', 'bad.pth', '--output-dir', 'out'), 'bad.pth', *words)
    assert everything(folder) == before


def test_a_bad_checkpoint_does_not_cost_the_earlier_result(command, folder):
    assert command('toy.py', 'random', '--output-dir', 'out', '--latency', '0')[0] == 0
    before = everything(folder)
    write_bad(folder / 'bad.pth', 'truncated')
    says_one_line(command('toy.py', 'bad.pth', '--output-dir', 'out', '--overwrite'), 'truncated')
    (folder / 'bad.pth').unlink()
    assert everything(folder) == before


def test_another_recipe_needs_overwrite(command, folder):
    assert command('toy.py', 'random', '--output-dir', 'out', '--latency', '0')[0] == 0
    before = everything(folder)
    other = ('toy.py', 'random', '--output-dir', 'out', '--latency', '0', '--pruning-ratio', '0.5')
    says_one_line(command(*other), 'out', '--overwrite')
    assert everything(folder) == before
    assert command(*other, '--overwrite')[0] == 0
    assert everything(folder) != before


def test_a_full_disk(folder):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        sys.dont_write_bytecode = True

    process = Forked(main, ('toy.py', 'random', '--output-dir', 'out', '--latency', '0'), folder, before=small_files)
    _, err = process.communicate(timeout=120)
    says_one_line((process.returncode, '', err), 'cannot be written', 'File too large')
    assert names_in(folder / 'out') == ['step.json']


def test_ctrl_c_while_writing(folder, monkeypatch):
    """Interrupted when the checkpoint's bytes are written but not yet under its name."""
    fsync = os.fsync

    def slow(handle):
        fsync(handle)
        if any(name.startswith('.vad_structured') for name in os.listdir('out')):  # noqa: PTH208
            print('WRITTEN', flush=True)
            time.sleep(60)

    monkeypatch.setattr(os, 'fsync', slow)
    process = Forked(main, ('toy.py', 'random', '--output-dir', 'out'), folder)
    for line in process.stdout:
        if 'WRITTEN' in line:
            assert any(name.startswith('.vad_structured') for name in names_in(folder / 'out'))
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == 'interrupted' and 'Traceback' not in err
    assert names_in(folder / 'out') == ['step.json']


def test_ctrl_c_that_was_turned_into_another_error(command, monkeypatch):
    """MMEngine formats the config under a bare except at every checkpoint."""

    def interrupted(*args, **kwargs):
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise SyntaxError('Failed to format the config file')  # noqa: B904

    monkeypatch.setattr('vadslim.slimming.prune.prune', interrupted)
    assert command('toy.py', 'random') == (130, '', 'interrupted\n')


def test_the_interrupted_folder_can_be_used_again(command, folder):
    (folder / 'out').mkdir()
    assert command('toy.py', 'random', '--output-dir', 'out', '--latency', '0')[0] == 0
    (folder / 'out' / 'done.json').unlink()
    (folder / 'out' / f'.{SLIM}.123.tmp').write_bytes(b'half')
    code, out, _ = command('toy.py', 'random', '--output-dir', 'out', '--latency', '0')
    assert code == 0 and 'reused' not in out and (folder / 'out' / 'done.json').exists()


def test_help_says_the_exit_codes(command):
    code, out, _ = command('--help')
    assert code == 0 and '--unstructured-ratio' in out and '130' in out


def test_both_doors_are_the_same_command():
    root = Path(__file__).resolve().parents[2] / 'tools'
    doors = [root / 'analysis_struct.py', root / 'analysis_tools' / 'analysis_struct.py']
    texts = {
        subprocess.run([sys.executable, door, '--help'], capture_output=True, text=True, check=True).stdout
        for door in doors
    }
    assert len(texts) == 1 and 'analysis_struct.py' in texts.pop()


def test_bad_files_are_really_bad():
    stream = io.BytesIO()
    torch.save({'meta': RunsCode()}, stream)
    assert b'system' in stream.getvalue()
