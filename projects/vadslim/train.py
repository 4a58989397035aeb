"""``tools/train.py``: train any MMEngine config, dense or slim; a config with stages goes to ``train_stages.py``."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from .cli import Parser, UserError, add_config_options, add_machine_options, run, say


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; the options of VAD's own train.py are accepted."""
    parser = Parser(
        prog='train.py',
        description='Train a config. With a slim checkpoint a dense config becomes slim by itself.',
        epilog='A YAML config, one with stages, a checkpoint of a stage, --stage NAME and --run-all-stages are taken '
        'as train_stages.py does, with its options.',
    )
    parser.add_argument('config', nargs='?', help='config file; may be missing with --resume PATH')
    parser.add_argument('--config', dest='config_option', metavar='CONFIG', help='the same')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: ./work_dirs/NAME)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='PATH',
        help='go on from PATH, or from the latest in the work dir',
    )
    parser.add_argument('--resume-from', metavar='PATH', help='the same as --resume PATH')
    parser.add_argument('--load-from', metavar='PATH', help='start from the weights of PATH at epoch 0')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate while training')
    parser.add_argument('--amp', action='store_true', help='mixed precision; needs a GPU')
    parser.add_argument('--deterministic', action='store_true', help='deterministic algorithms, where there are any')
    parser.add_argument('--seed', type=int, help="random seed (default: the checkpoint's or the config's, else 0)")
    parser.add_argument(
        '--auto-scale-lr',
        '--autoscale-lr',
        action='store_true',
        help='scale the rate with the whole batch size',
    )
    add_config_options(parser)
    add_machine_options(parser)
    args = parser.parse_args(argv)
    if args.resume and args.resume.endswith('.py') and not (args.config or args.config_option):
        args.config, args.resume = args.resume, 'latest'  # train.py --resume CONFIG
    if args.config and args.config_option:
        raise UserError(f'the config is given twice: {args.config} and --config {args.config_option}')
    args.config = args.config or args.config_option
    given = [name for name in ('resume', 'resume_from', 'load_from') if getattr(args, name)]
    if len(given) > 1:
        raise UserError(f'--{given[0].replace("_", "-")} and --{given[1].replace("_", "-")}: choose one')
    args.resume = args.resume or args.resume_from
    if not args.config and args.resume in (None, 'latest'):
        raise UserError('a CONFIG is needed (it may be missing with --resume PATH only)')
    return args


def main(argv: Sequence[str]) -> int | None:
    """Train.

    Returns:
        The exit code of the processes started for ``--gpus``, None for one's own work.
    """
    from .staged.handover import is_staged

    if is_staged(argv):
        from .staged.cli import main as train_stages

        return train_stages(argv)
    args = parse_args(argv)
    from .launch import choose_machine, torchrun

    machine = choose_machine(args.gpus, args.gpu_ids, args.launcher)  # before anything imports MMEngine
    from .options import check_config

    if args.config:
        check_config(args.config)
    if machine.processes:
        return torchrun('vadslim.train', argv, machine.processes)
    build(args, machine.launcher).train()
    return None


def build(args: argparse.Namespace, launcher: str) -> Any:
    """Build the Runner that a command line asks for."""
    import torch

    from . import experiment
    from .checkpoint import register_loader
    from .launch import adapt_to_device, init_distributed
    from .options import load_config, merge_texts

    register_loader()
    resumed, source = None, args.resume
    if source not in (None, 'latest'):
        resumed = _load(source)
    cfg = load_config(args.config) if args.config else experiment.config_of(resumed, source)
    merge_texts(cfg, args.cfg_options)
    experiment.default_work_dir(cfg, args.config, args.work_dir)
    if resumed is None:
        source = _latest(cfg, args)
        resumed = _load(source) if source else None
    _start_from(cfg, args, source, resumed)
    _set_switches(cfg, args, resumed)
    experiment.check_trainable(cfg, args.config or source)
    experiment.check_backends(cfg)
    checkpoint = resumed or (_load(cfg.load_from) if cfg.get('load_from') else None)
    init_distributed(launcher, cfg.get('env_cfg', {}).get('dist_cfg'))
    adapt_to_device(cfg, launcher)
    if checkpoint is not None:
        experiment.note_image_norm(cfg, checkpoint, cfg.load_from)
        if experiment.use_structure(cfg, checkpoint, cfg.load_from):
            say(f'{cfg.load_from}: a slim network; the model of the config is slimmed like it')
            experiment.keep_structure(cfg, checkpoint, cfg.work_dir)
        experiment.never_download(cfg)
    experiment.add_hooks(cfg)
    del checkpoint, resumed
    runner = experiment.build_runner(cfg)
    if cfg.randomness.get('deterministic'):  # as mmcv 1 had it: what has no deterministic version only warns
        torch.use_deterministic_algorithms(True, warn_only=True)
    return runner


def _load(path: Any) -> dict:
    """Read a checkpoint that has weights."""
    from .checkpoint import load_checkpoint
    from .experiment import weights_of

    checkpoint = load_checkpoint(path)
    weights_of(checkpoint, path)
    return checkpoint


def _latest(cfg: Any, args: argparse.Namespace) -> Any:
    """Find the checkpoint to resume from where no path names it; None to start anew."""
    from .hooks.checkpoint_hook import find_latest

    if args.load_from or not (args.resume or cfg.get('resume')):
        return None
    if not args.resume and cfg.get('load_from'):  # MMEngine's meaning of resume = True
        return cfg.load_from
    source = find_latest(cfg.work_dir)
    if source is None:
        say(f'{cfg.work_dir}: nothing to resume from, training starts at epoch 0')
    return source


def _start_from(cfg: Any, args: argparse.Namespace, source: Any, resumed: dict | None) -> None:
    """Decide between resume and load_from, in place."""
    cfg.resume = resumed is not None
    if resumed is not None:
        cfg.load_from = str(source)
        meta = resumed.get('meta') or {}
        if meta.get('iter') is None or meta.get('epoch') is None or 'message_hub' not in resumed:
            say(f'{source}: not written by MMEngine; its weights are loaded, training starts at epoch 0')
            cfg.resume = False
    elif args.load_from:
        cfg.load_from = args.load_from


def _set_switches(cfg: Any, args: argparse.Namespace, resumed: dict | None) -> None:
    """Put the plain switches of the command line into the config, in place."""
    import torch

    if args.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp: mixed precision needs a GPU, and there is none; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise UserError('--auto-scale-lr: the config has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    randomness = dict(cfg.get('randomness') or {})
    if args.seed is not None:
        randomness['seed'] = args.seed
    elif resumed is not None and cfg.resume and (resumed.get('meta') or {}).get('seed') is not None:
        randomness['seed'] = resumed['meta']['seed']
    elif randomness.get('seed') is None:
        randomness['seed'] = 0
    if args.deterministic:
        randomness['deterministic'] = True
    if randomness.get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    cfg.randomness = randomness


if __name__ == '__main__':
    sys.exit(run(main))
