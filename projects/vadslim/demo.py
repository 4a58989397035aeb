"""The demonstration: drive, slim and drive again, by the commands that a user would type.

Every step is one of the project's own command lines, which is printed; its whole output goes to a log file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from rich.console import Console
from rich.table import Table

from vadslim.cli import Parser, UserError, at_least, fraction, run
from vadslim.evaluate import evaluate as run_test
from vadslim.evaluate import parse_args

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/VAD/VAD_nano_synthetic.py'
TINY = 'configs/VAD/VAD_tiny_stage_2.py'
DATA = 'data/synthetic-nuscenes'
COMMANDS = ('right', 'left', 'straight')
HORIZONS = (1, 2, 3)
# of the few steps fewer warm up, and the learning rate falls after each of them, not after an epoch
SHORT = ('param_scheduler.0.end=40', 'param_scheduler.1.convert_to_iter_based=True')


class Steps:
    """Runs command lines one after the other and shows where they are.

    Args:
        console: where the progress is shown.
        logs: folder of the whole outputs.
        total: how many steps there will be.
    """

    def __init__(self, console: Console, logs: Path, total: int):
        self.console, self.logs, self.total = console, logs, total
        self.done = 0
        self.seconds: dict[str, float] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __call__(self, title: str, script: str, *arguments: str | Path | float) -> None:
        """Run ``python script arguments``.

        Raises:
            UserError: it did not succeed.
        """
        self.done += 1
        name = title.split(':')[0]
        log = self.logs / f'{self.done}-{name.replace(" ", "-")}.log'
        line = ' '.join(['python', script, *map(str, arguments)])
        self.console.print(f'[bold]\\[{self.done}/{self.total}] {title}[/bold]')
        self.console.print(f'      $ {line}', markup=False, highlight=False, style='dim', soft_wrap=True)
        start = time.monotonic()
        last = ''
        with log.open('w', buffering=1) as file, self.console.status('starting') as status:
            process = subprocess.Popen(
                [sys.executable, script, *map(str, arguments)],
                env={'OMP_WAIT_POLICY': 'PASSIVE', **os.environ},  # threads that wait do not take a core from others
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
            try:
                assert process.stdout is not None
                for text in process.stdout:
                    file.write(text)
                    if text.strip():
                        last = text.strip()
                    if shown := progress(last):
                        status.update(f'{time.monotonic() - start:4.0f} s  {shown}')
                code = process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code:
            raise UserError(f'{name} ended with exit code {code}: {last} (whole output: {log})')
        self.seconds[name] = time.monotonic() - start
        self.console.print(f'      done in {self.seconds[name]:.0f} s', highlight=False)


def progress(line: str) -> str:
    """What one line of a step's output says about how far it is; '' for nothing."""
    if 'Epoch(' in line:
        line = line[line.index('Epoch(') :]
        parts = [part for part in line.split('  ') if part.startswith(('Epoch', 'eta', 'loss:', 'time'))]
        return ' '.join(parts)[:100].replace('[', '\\[')
    if ' - mmengine - ' in line or line.startswith((' ', '{', '}', ')')):
        return ''
    return line[:100].replace('[', '\\[')


class KeepSamples(BaseMetric):
    """Keeps what a network said of each frame; no metric."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list) -> dict:
        self.samples = results
        return {}


def two_processes() -> tuple[list[str], list[str]]:
    """Arguments that train on two CPU processes with half the batch each: networks this small gain little from threads.

    Returns:
        The arguments, and the config's options that go with them; both empty where there is a GPU or one core only.
    """
    import torch

    if torch.cuda.is_available() or (os.cpu_count() or 1) < 2:
        return [], []
    return ['--gpus', '2'], ['train_dataloader.batch_size=2']


def evaluate(checkpoint: Path, work_dir: Path) -> tuple[dict[str, float], list[dict]]:
    """Drive a checkpoint over the validation scenes, by what ``tools/test.py`` is made of.

    Returns:
        The metrics, and the samples with predictions and ground truth.
    """
    keep = KeepSamples()
    metrics = run_test(parse_args([CONFIG, str(checkpoint), '--work-dir', str(work_dir)]), [keep])
    return {name: float(value) for name, value in metrics.items()}, keep.samples


def table_of(columns: Mapping[str, Mapping[str, float]], network: Mapping[str, Any]) -> Table:
    """Cost and quality, one column per network.

    Args:
        columns: name -> metrics; the first is the dense network, the others are slim.
        network: the report of the pruning command.
    """
    table = Table(title='VAD-nano, synthetic nuScenes, validation scenes', title_justify='left')
    table.add_column('')
    for name in columns:
        table.add_column(name, justify='right')
    sides = [network['before']] + [network['after']] * (len(columns) - 1)
    table.add_row('parameters', *(f'{side["params"]:,}' for side in sides))
    table.add_row('MACs (G)', *(f'{side["macs"] / 1e9:.2f}' for side in sides))
    table.add_row('latency (ms)', *(f'{side["latency"]["median_ms"]:.0f}' for side in sides))
    for title, key, scale in (
        ('planning L2 (m)', 'plan_L2_{}s', 1),
        ('collision, boxes (%)', 'plan_obj_box_col_{}s', 100),
    ):
        for horizon in HORIZONS:
            values = (metrics[key.format(horizon)] * scale for metrics in columns.values())
            table.add_row(f'{title} {horizon} s', *(f'{value:.2f}' for value in values))
    for title, key, scale in (
        ('detection NDS (%)', 'pts_bbox_NuScenes/NDS', 100),
        ('detection mAP (%)', 'pts_bbox_NuScenes/mAP', 100),
        ('map mAP (%)', 'NuscMap_chamfer/mAP', 100),
    ):
        table.add_row(title, *(f'{metrics[key] * scale:.1f}' for metrics in columns.values()))
    return table


def tiny_table(report: Mapping[str, Any]) -> Table:
    """Cost of the full-size network before and after."""
    table = Table()
    for column in ('', 'dense', 'slim', 'left'):
        table.add_column(column, justify='right' if column else 'left')
    before, after = report['before'], report['after']
    rows = [
        ('parameters (M)', before['params'] / 1e6, after['params'] / 1e6),
        ('MACs (G)', before['macs'] / 1e9, after['macs'] / 1e9),
        ('latency (s)', before['latency']['median_ms'] / 1e3, after['latency']['median_ms'] / 1e3),
    ]
    for name, old, new in rows:
        table.add_row(name, f'{old:.2f}', f'{new:.2f}', f'{new / old:.0%}')
    return table


def draw(predictions: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, columns: int = 4) -> None:
    """Draw the plans of several networks for some frames of the validation scenes.

    The frames are those with the longest recorded path per command, then the ones where the plans differ most.

    Args:
        predictions: name of the network -> samples with ground truth, in one order.
        path: the PNG to write.
        columns: number of frames.
    """
    from vadslim.vad.visualization import Scene, footprints, plot_paths

    names = list(predictions)
    frames = list(zip(*predictions.values()))
    valid = [i for i, (first, *_) in enumerate(frames) if first['fut_valid_flag']]
    driven = {i: np.cumsum(np.asarray(frames[i][0]['gt_ego']['fut_trajs']), 0) for i in valid}
    plans = {i: {name: plan_of(sample) for name, sample in zip(names, frames[i])} for i in valid}
    command = {i: int(np.argmax(np.asarray(frames[i][0]['gt_ego']['fut_cmd']))) for i in valid}
    chosen: list[int] = []
    for kind in range(len(COMMANDS)):
        of_kind = [i for i in valid if command[i] == kind]
        if of_kind:
            chosen.append(max(of_kind, key=lambda i: float(np.linalg.norm(driven[i][-1]))))
    first, last = names[0], names[-1]
    by_change = sorted(valid, key=lambda i: -float(np.linalg.norm(plans[i][first] - plans[i][last])))
    chosen = (chosen + [i for i in by_change if i not in chosen])[:columns]

    scenes, paths = [], []
    for i in chosen:
        sample = frames[i][0]
        lines = sample['gt_map']
        map_lines = [(int(k), np.asarray(p)[0]) for k, p in zip(lines['labels'], lines['pts'])]
        boxes = np.asarray(sample['gt_instances_3d']['bboxes_3d'])
        scenes.append(Scene(map_lines, footprints(boxes), f'command: {COMMANDS[command[i]]}'))
        paths.append({'driven': driven[i], **plans[i]})
    plot_paths(path, scenes, paths, caption='Planned path over 3 s; validation scenes')


def plan_of(sample: Mapping[str, Any]) -> np.ndarray:
    """Way points (6, 2) in metres of the plan for the command that was given."""
    steps = np.asarray(sample['pred_ego']['fut_preds'])
    command = int(np.argmax(np.asarray(sample['gt_ego']['fut_cmd'])))
    return np.cumsum(steps[command], 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    return run(_demo, argv)


def _demo(argv: Sequence[str]) -> None:
    parser = Parser(description='Train, slim, fine-tune and evaluate VAD on synthetic data.')
    parser.add_argument('--out', type=Path, default=Path('demo_output'), help='(./demo_output)')
    parser.add_argument('--ratio', type=fraction, default=0.3, help='fraction of units that is removed (0.3)')
    parser.add_argument('--epochs', type=at_least(1), default=2, help='training epochs (2)')
    parser.add_argument('--fine-tune-epochs', type=at_least(1), default=1, help='epochs after slimming (1)')
    args = parser.parse_args(argv)
    out = args.out.absolute()
    os.chdir(ROOT)  # the config's data_root counts from here
    console = Console(width=None if sys.stdout.isatty() else 110)
    start = time.monotonic()
    steps = Steps(console, out / 'logs', total=7)

    steps(
        'synthetic data: ten scenes in the nuScenes format',
        'tools/data_converter/make_synthetic_nuscenes.py',
        '--out',
        DATA,
    )
    if not (ROOT / DATA / 'vad_nuscenes_infos_temporal_val.pkl').exists():
        arguments = ['nuscenes', '--root-path', DATA, '--out-dir', DATA, '--extra-tag', 'vad_nuscenes']
        steps(
            'info files: what VAD reads', 'tools/create_data.py', *arguments, '--version', 'v1.0-mini', '--canbus', DATA
        )
    else:
        steps.total -= 1
    dense, slim = out / 'dense', out / 'slim'
    processes, per_process = two_processes()
    steps(
        'training: VAD-nano from random weights',
        'tools/train.py',
        *[CONFIG, '--work-dir', dense, '--no-validate', *processes],
        *['--cfg-options', f'train_cfg.max_epochs={args.epochs}', *SHORT, *per_process],
    )
    steps(
        f'slimming and fine-tuning: {args.ratio:.0%} of the units of each Group',
        'tools/analysis_struct.py',
        *[CONFIG, dense / 'latest.pth', '--pruning-ratio', args.ratio, '--output-dir', slim, '--overwrite'],
        *['--fine-tune', '--fine-tune-epochs', args.epochs + args.fine_tune_epochs, *processes],
        *(['--cfg-options', *per_process] if per_process else []),
    )
    steps(
        'full size: VAD-tiny with random weights',
        'tools/analysis_struct.py',
        *[TINY, 'random', '--pruning-ratio', args.ratio, '--output-dir', out / 'vad_tiny', '--overwrite'],
        *['--latency', '1'],
    )
    steps.done += 1
    console.print(f'[bold]\\[{steps.done}/{steps.total}] driving the validation scenes[/bold]')
    checkpoints = {
        'dense': dense / 'latest.pth',
        'slim': slim / 'vad_structured_pruned.pth',
        'slim, fine-tuned': slim / 'fine_tuned' / 'latest.pth',
    }
    metrics, predictions = {}, {}
    for name, checkpoint in checkpoints.items():
        folder = out / 'evaluation' / name.replace(', ', '_')
        log = steps.logs / f'{steps.done}-{folder.name}.log'
        with (
            console.status(f'{name}: {checkpoint}'),
            log.open('w', buffering=1) as file,
            redirect_stdout(file),
            redirect_stderr(file),
        ):
            metrics[name], predictions[name] = evaluate(checkpoint, folder)
    picture = out / 'plans.png'
    draw(predictions, picture)

    network = json.loads((slim / 'report.json').read_text())
    console.print(table_of(metrics, network))
    tiny = json.loads((out / 'vad_tiny' / 'report.json').read_text())
    console.print(f'VAD-tiny, full size, {tiny["example"]}', style='italic')
    console.print(tiny_table(tiny))
    console.print(f'picture of the plans: {picture}', highlight=False)
    console.print(f'whole demonstration: {(time.monotonic() - start) / 60:.1f} minutes', highlight=False)
