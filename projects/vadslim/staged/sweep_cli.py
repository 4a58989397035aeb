"""``sweep.py``: a staged config for each combination of settings, in folders of their own."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadslim.cli import Parser, UserError, at_least, run, say
from vadslim.staged.flags import overrides_of, parse_args
from vadslim.staged.settings import Stage, initial_checkpoint, resolve
from vadslim.staged.sweep import Point, grid
from vadslim.staged.tasks import import_tasks

if TYPE_CHECKING:
    from vadslim.staged.sweep_run import Run

# settings on which no result depends
_NOT_RESULTS = {'device', 'logging', 'work_dir', 'visualizer', 'log_level', 'default_hooks', 'env_cfg'}
_NOT_TRAINING = {'save_dir', 'save_interval', 'keep_last_n'}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0 done, 2 a mistake or a point that failed, 130 interrupted."""
    return run(_run, argv)


def build_parser() -> argparse.ArgumentParser:
    """What the sweep itself reads; the rest is train_stages.py's."""
    parser = Parser(
        prog='sweep.py',
        description='Run the stages of one config for each combination of settings. What is finished is not run '
        'again, and what was stopped goes on.',
        usage='sweep.py --config CONFIG --set KEY=A,B [KEY=A,B ...] [--stage NAME] [options]',
        epilog='All stages are run if none is named. All options of train_stages.py but --resume can be given too, for '
        'every point: --stage, --epochs, --device, --import ... Exit codes: 0 all points are done, 2 a mistake in what '
        'was asked or a point that failed, 130 interrupted.',
    )
    add = parser.add_argument
    add(
        '--set',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=A,B',
        help='values of a setting by its dotted key: training.lr=1e-3,5e-4; of one stage: '
        'stages.NAME.training.lr=...; several keys make a grid',
    )
    add('--save_dir', '--save-dir', metavar='DIR', help="a point's files go to DIR/POINT (work_dirs/sweep_CONFIG)")
    add(
        '--jobs',
        type=at_least(1),
        metavar='N',
        help='points at once (1; under Slurm all), each on a GPU of its own as long as there are any',
    )
    add('--metric', metavar='NAME', help="of the last stage's validation (the one that chose its best checkpoint)")
    add('--dry-run', '--dry_run', action='store_true', help='print the command of each point and run none')
    group = parser.add_argument_group('on a cluster')
    group.add_argument(
        '--launcher',
        choices=('none', 'slurm'),
        default='none',
        help='slurm: each point by srun, as tools/slurm_train.sh does; GPUS (1), CPUS_PER_TASK (5), PYTHON and '
        'SRUN_ARGS are read from the environment',
    )
    group.add_argument('--partition', metavar='P', help="Slurm's")
    return parser


def _run(argv: Sequence[str]) -> int:
    own, rest = build_parser().parse_known_args(argv)
    options = parse_args(rest)
    if not own.set:
        raise UserError('--set KEY=A,B is needed: what the sweep varies')
    if options.resume:
        raise UserError('--resume: every point of a sweep goes on by itself; leave it out')
    if (own.launcher == 'slurm') != bool(own.partition):
        raise UserError('--launcher slurm and --partition P go together')
    if not (options.stage or options.run_all_stages):
        rest = [*rest, '--run-all-stages']
        options = parse_args(rest)
    import_tasks(options.imports)
    save_dir = Path(own.save_dir or f'work_dirs/sweep_{Path(options.config).stem}').expanduser()
    points = grid(own.set)
    runs = [_to_run(point, options, rest, own, save_dir) for point in points]
    if own.dry_run:
        for one in runs:
            print(shlex.join(one.command))
        return 0
    from vadslim.staged.sweep_report import report
    from vadslim.staged.sweep_run import run_points

    jobs = min(own.jobs or (len(runs) if own.partition else 1), len(runs))
    spread = not own.partition and not options.gpus and not options.gpu_ids
    outcomes = run_points(runs, jobs, options.overwrite, local=not own.partition, spread=spread)
    report(runs, outcomes, save_dir, own.metric)
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        say(f'error: {outcome.problem}')
    return 2 if failed else 0


def _to_run(
    point: Point, options: argparse.Namespace, rest: Sequence[str], own: argparse.Namespace, save_dir: Path
) -> Run:
    """Check a point's settings and write its command."""
    from vadslim.staged.sweep_run import Run

    fixed = overrides_of(options)
    for key in point.overrides:
        if key in fixed:
            raise UserError(f'--set {key}: another option gives it too')
        if key in ('training.save_dir', 'logging.tensorboard_dir'):
            raise UserError(f'--set {key}: the folders of a sweep are under --save_dir')
    folder = save_dir / point.name
    plan = resolve(options.config, {**fixed, **point.overrides})
    stages = plan.select(options.stage, options.run_all_stages)
    for key in point.overrides:
        if key.startswith('stages.') and key.split('.')[1] not in [stage.name for stage in stages]:
            raise UserError(f'--set {key}: only stage {stages[0].name} is run; all points would be the same')
    settings = [f'{key}={text}' for key, text in point.overrides.items()]
    curves = save_dir / 'tensorboard'  # where a point's have the name of its folder
    for stage in stages:
        if (stage.settings.get('logging') or {}).get('tensorboard_dir'):
            settings.append(f'stages.{stage.name}.logging.tensorboard_dir={curves}')
    first = stages[0]  # what another run left is found where the config's own save_dir is, not in the point's
    source = initial_checkpoint(plan, first)
    if source is not None and not first.init_given:
        settings.append(f'stages.{first.name}.init_from={source}')
    command = [sys.executable, '-m', 'vadslim.staged', *rest, '--save_dir', str(folder), '--set', *settings]
    if own.partition:
        command = srun(own.partition, f'{Path(options.config).stem}_{point.name}', command[1:])
    return Run(
        name=point.name,
        values=point.overrides,
        folder=folder,
        command=command,
        stages=[stage.name for stage in stages],
        recipe=[_recipe(stage) for stage in stages],
        inputs={} if source is None else {'init_from': source},
        tensorboard=curves if any('tensorboard_dir=' in text for text in settings) else None,
    )


def srun(partition: str, job: str, arguments: Sequence[str]) -> list[str]:
    """The command of one point under Slurm: tools/slurm_train.sh's, with one GPU if ``$GPUS`` names no number."""
    read = os.environ.get
    gpus = read('GPUS', '1')
    per_node = read('GPUS_PER_NODE', str(min(int(gpus), 8)) if gpus.isdecimal() else '8')
    command = ['srun', '-p', partition, f'--job-name={job}', f'--gres=gpu:{per_node}', f'--ntasks={gpus}']
    command += [f'--ntasks-per-node={per_node}', f'--cpus-per-task={read("CPUS_PER_TASK", "5")}']
    command += ['--kill-on-bad-exit=1', *shlex.split(read('SRUN_ARGS', '')), read('PYTHON', 'python'), '-u']
    return [*command, *arguments, *(['--launcher', 'slurm'] if gpus != '1' else [])]


def _recipe(stage: Stage) -> dict[str, Any]:
    """What a stage's results depend on."""

    def without(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key not in names}

    settings = without(stage.settings, _NOT_RESULTS)
    if isinstance(settings.get('training'), Mapping):
        settings['training'] = without(settings['training'], _NOT_TRAINING)
    return {'name': stage.name, 'kind': stage.kind, 'settings': settings, 'options': stage.options}
