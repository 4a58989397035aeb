"""Does a network look? Losses and plans on the validation set, with images and with zeros in their place.

    python tools/misc/blank_images.py CONFIG CHECKPOINT

``random`` in place of the checkpoint measures the untrained network.
"""

import copy
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vadslim import cli


def main(argv: Sequence[str]) -> None:
    """Measure and print the table."""
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint', help='a file, or the word random')
    parser.add_argument('--seed', type=int, default=0, help='of random weights and of the drawn history (0)')
    args = parser.parse_args(argv)

    import numpy as np
    from mmengine.evaluator import Evaluator
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner, set_random_seed
    from rich.console import Console
    from rich.table import Table

    import vadslim.vad  # noqa: F401, registers the model
    from vadslim.vad.blank_images import compare

    init_default_scope('mmdet3d')
    set_random_seed(args.seed)
    cfg, model = _load(args.config, args.checkpoint)
    queues = Runner.build_dataloader(_queues(cfg))
    frames = Runner.build_dataloader(cfg.test_dataloader)

    def training_items() -> Any:
        random.seed(args.seed)  # frames of the history are drawn from it
        np.random.seed(args.seed)
        return queues

    measured = compare(model, training_items, lambda: frames, Evaluator(cfg.test_evaluator))
    table = Table(title=f'{Path(args.config).stem}, {Path(args.checkpoint).name}, validation set')
    for title in ('', 'images', 'blank'):
        table.add_column(title, justify='right' if title else 'left')
    for name, value in measured['images'].items():
        table.add_row(name, f'{value:.4f}', f'{measured["blank"][name]:.4f}')
    Console(width=110).print(table)


def _load(config: str, checkpoint: str) -> tuple[Any, Any]:
    """The config, slim if the checkpoint is, and its model."""
    from mmengine.registry import MODELS

    from vadslim import experiment
    from vadslim.checkpoint import load_checkpoint
    from vadslim.hooks.transfer import differences, shorten
    from vadslim.options import load_config

    cfg = load_config(config)
    experiment.check_trainable(cfg, config)
    if checkpoint == 'random':
        model = MODELS.build(cfg.model)
        logging.disable(logging.INFO)  # a line per parameter
        model.init_weights()
        logging.disable(logging.NOTSET)
        return cfg, model
    content = load_checkpoint(checkpoint)
    experiment.use_structure(cfg, content, checkpoint)
    experiment.never_download(cfg)
    model = MODELS.build(cfg.model)
    weights = experiment.weights_of(content, checkpoint)
    if problems := differences(model, weights):
        raise cli.UserError(f'checkpoint {checkpoint} is not one of {config}: {shorten(problems)}')
    model.load_state_dict(weights)
    return cfg, model


def _queues(cfg: Any) -> Any:
    """The validation frames as training items, in their order; one process, so that the same history is drawn."""
    loader = copy.deepcopy(cfg.val_dataloader)
    loader.update(num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=False))
    loader.dataset.update(test_mode=False, queue_length=cfg.train_dataloader.dataset.queue_length)
    return loader


if __name__ == '__main__':
    sys.exit(cli.run(main))
