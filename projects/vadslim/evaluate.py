"""``tools/test.py``: evaluate a checkpoint, dense or slim, and write its predictions or metrics."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cli import Parser, UserError, add_config_options, add_machine_options, run, say

PREDICTIONS = ('.pkl', '.pickle')
# options of VAD's own test.py that MMEngine has no use for, and where their meaning went
WITHOUT_EFFECT = {
    'eval_options': 'the config names the metrics (test_evaluator)',
    'gpu_collect': 'the metrics collect results by themselves',
    'show': 'pictures are drawn by the config (visualizer and its hooks)',
    'show_dir': 'pictures are drawn by the config (visualizer and its hooks)',
}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; the options of VAD's own test.py are accepted."""
    parser = Parser(
        prog='test.py', description='Evaluate a checkpoint. A slim one makes a dense config slim by itself.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the log goes (default: ./work_dirs/NAME)')
    parser.add_argument('--out', metavar='FILE', help='write the predictions (.pkl, .pickle) or the metrics (.json)')
    parser.add_argument('--format-only', action='store_true', help='write predictions only, to --out or --json_dir')
    parser.add_argument('--tmpdir', help='where several processes exchange results')
    parser.add_argument('--fuse-conv-bn', action='store_true', help='fold batch norms into convolutions')
    parser.add_argument('--seed', type=int, default=0, help='random seed')
    parser.add_argument('--deterministic', action='store_true', help='deterministic algorithms, where there are any')
    parser.add_argument('--eval', nargs='+', help='accepted: the config names the metrics; bbox was the one choice')
    parser.add_argument('--eval-options', nargs='+', help=argparse.SUPPRESS)
    parser.add_argument('--gpu-collect', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--json_dir', '--json-dir', metavar='DIR', help='write predictions to DIR/results_nusc.json')
    parser.add_argument('--show', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--show-dir', help=argparse.SUPPRESS)
    add_config_options(parser)
    add_machine_options(parser)
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith((*PREDICTIONS, '.json')):
        raise UserError(f'--out {args.out}: its name must end with .pkl or .pickle (predictions) or .json (metrics)')
    if args.format_only and not (args.json_dir or (args.out and args.out.endswith(PREDICTIONS))):
        raise UserError('--format-only writes predictions: give --out FILE.pkl or --json_dir DIR')
    if args.format_only and args.out and not args.out.endswith(PREDICTIONS):
        raise UserError(f'--format-only computes no metrics for --out {args.out}')
    if args.format_only and args.eval:
        raise UserError('--eval and --format-only: choose one')
    if args.out and not Path(args.out).absolute().parent.is_dir():
        raise UserError(f'--out {args.out}: there is no such folder')
    return args


def main(argv: Sequence[str]) -> int | None:
    """Evaluate.

    Returns:
        The exit code of the processes started for ``--gpus``, None for one's own work.
    """
    args = parse_args(argv)
    from .launch import choose_machine, torchrun

    machine = choose_machine(args.gpus, args.gpu_ids, args.launcher)  # before anything imports MMEngine
    from .checkpoint import check_file
    from .options import check_config

    check_config(args.config)
    check_file(args.checkpoint)
    if machine.processes:
        return torchrun('vadslim.evaluate', argv, machine.processes)
    if args.eval and args.eval != ['bbox']:
        say('note: --eval has no effect: the config names the metrics (test_evaluator)')
    for name, reason in WITHOUT_EFFECT.items():
        if getattr(args, name):
            say(f'note: --{name.replace("_", "-")} has no effect: {reason}')
    show(evaluate(args, launcher=machine.launcher))
    return None


def show(metrics: Mapping[str, Any]) -> None:
    """Print the metrics that sum up others, in a table; the log has them all."""
    from mmengine.dist import is_main_process
    from rich.console import Console
    from rich.table import Table

    from .analysis.metrics import in_order, is_detail

    names = in_order(name for name in metrics if not is_detail(name))
    if names and is_main_process():
        table = Table('metric')
        table.add_column('value', justify='right')
        for name in names:
            value = metrics[name]
            table.add_row(name, f'{value:.4g}' if isinstance(value, int | float) else str(value))
        Console(markup=False, highlight=False).print(table)


def evaluate(args: argparse.Namespace, metrics: Sequence[Any] = (), launcher: str = 'none') -> dict[str, Any]:
    """Build the Runner that a command line asks for, test, and write ``--out``.

    Args:
        args: what :func:`parse_args` returns.
        metrics: further metrics, beside those of the config.
        launcher: who started the processes, 'none' for one.

    Returns:
        The metrics.
    """
    import torch
    from mmengine.dist import is_main_process
    from mmengine.evaluator import DumpResults

    from . import experiment

    cfg = _config(args, launcher)
    if args.format_only and not args.json_dir:
        cfg.test_evaluator = []
    runner = experiment.build_runner(cfg)
    if args.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    evaluator = runner.build_evaluator(runner._test_evaluator)
    if args.json_dir:
        _write_results(evaluator, args)
    evaluator.metrics.extend(metrics)
    runner._test_evaluator = evaluator
    temporary = None
    if args.out and args.out.endswith(PREDICTIONS):
        out = Path(args.out)
        temporary = out.with_name(f'.{out.stem}.tmp{out.suffix}')
        evaluator.metrics.append(DumpResults(str(temporary)))
    if args.tmpdir:
        for i, metric in enumerate(evaluator.metrics):
            if metric.collect_device == 'cpu':
                metric.collect_dir = os.path.join(args.tmpdir, str(i))  # noqa: PTH118
    if args.fuse_conv_bn:
        _fuse_after_loading(runner)
    try:
        results = runner.test()
        if is_main_process() and temporary is not None:
            temporary.replace(args.out)
    finally:
        if is_main_process() and temporary is not None:
            temporary.unlink(missing_ok=True)
    if is_main_process() and args.out:
        if temporary is None:
            experiment.write_text(args.out, json.dumps(results, indent=1, default=float) + '\n')
        say(f'written: {args.out}')
    return results


def _write_results(evaluator: Any, args: argparse.Namespace) -> None:
    """Ask the metrics that can do it for ``--json_dir``; the others go with ``--format-only``."""
    writers = [metric for metric in evaluator.metrics if hasattr(metric, 'write_results')]
    if not writers:
        raise UserError(f'--json_dir: no metric of {args.config} writes result files; VADNuScenesMetric does')
    for metric in writers:
        metric.write_results(args.json_dir, only=args.format_only)
    if args.format_only:
        evaluator.metrics = writers


def _config(args: argparse.Namespace, launcher: str) -> Any:
    """Get the config that a command line asks for, ready for a Runner."""
    from . import experiment
    from .checkpoint import load_checkpoint, register_loader
    from .launch import adapt_to_device, init_distributed

    register_loader()
    cfg = read_config(args)
    checkpoint = load_checkpoint(args.checkpoint)
    experiment.weights_of(checkpoint, args.checkpoint)  # says now if there are none
    experiment.note_image_norm(cfg, checkpoint, args.checkpoint)
    if experiment.use_structure(cfg, checkpoint, Path(args.checkpoint).absolute()):
        say(f'{args.checkpoint}: a slim network; the model of the config is slimmed like it')
    experiment.default_work_dir(cfg, args.config, args.work_dir)
    init_distributed(launcher, cfg.get('env_cfg', {}).get('dist_cfg'))
    adapt_to_device(cfg, launcher)
    experiment.never_download(cfg)
    experiment.add_hooks(cfg)
    cfg.load_from, cfg.resume = str(args.checkpoint), False
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': args.seed, 'deterministic': args.deterministic}
    return cfg


def read_config(args: argparse.Namespace) -> Any:
    """Read a command line's config, with its options put over it, as one of a test alone.

    Raises:
        UserError: it cannot be read, has nothing to test on, or its data are not there.
    """
    from . import experiment
    from .options import load_config, merge_texts

    cfg = load_config(args.config)
    merge_texts(cfg, args.cfg_options)
    for key in ('dataloader', 'cfg', 'evaluator'):
        if cfg.get(f'test_{key}') is None:
            cfg[f'test_{key}'] = cfg.get(f'val_{key}')
    if cfg.get('test_dataloader') is None:
        raise UserError(f'{args.config}: has no test_dataloader')
    cfg.test_cfg = cfg.test_cfg or {}
    for parts in (('train_dataloader', 'train_cfg', 'optim_wrapper'), ('val_dataloader', 'val_cfg', 'val_evaluator')):
        if any(cfg.get(part) is None for part in parts):  # a Runner wants all or none, and the test needs none
            cfg.update(dict.fromkeys(parts))
    if cfg.get('optim_wrapper') is None:
        cfg.param_scheduler = None
    experiment.check_data(cfg, 'test_dataloader', args.config)
    experiment.check_backends(cfg)
    return cfg


def _fuse_after_loading(runner: Any) -> None:
    """Load the checkpoint now and fold the batch norms, before the test loop would load it."""
    from mmengine.model import is_model_wrapper

    try:
        from mmcv.cnn import fuse_conv_bn
    except ImportError:
        raise UserError('--fuse-conv-bn needs mmcv') from None
    runner.load_or_resume()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    fuse_conv_bn(model)


if __name__ == '__main__':
    sys.exit(run(main))
