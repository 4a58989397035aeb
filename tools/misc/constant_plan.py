"""Print the L2 of the best constant plan per command: ``python tools/misc/constant_plan.py CONFIG``."""

import sys
from collections.abc import Sequence

from vadslim import cli


def main(argv: Sequence[str]) -> None:
    """Plans from the training set of a config, scored on its validation set."""
    parser = cli.Parser(description=main.__doc__)
    parser.add_argument('config')
    args = parser.parse_args(argv)

    from mmengine.registry import DATASETS, init_default_scope

    import vadslim.vad  # noqa: F401, registers the dataset
    from vadslim.experiment import check_trainable
    from vadslim.options import load_config
    from vadslim.vad.datasets import infos
    from vadslim.vad.metrics.constant_plan import constant_plans, score_plans

    init_default_scope('mmdet3d')
    cfg = load_config(args.config)
    check_trainable(cfg, args.config)
    train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    records = [val.get_data_info(i) for i in range(len(val))]
    plans = constant_plans(infos.ego(train.get_data_info(i)) for i in range(len(train)))
    for command, plan in zip(('right', 'left', 'straight'), plans):
        x, y = plan.sum(0)
        print(f'{command:9} after 3 s: {x:6.2f} m to the right, {y:6.2f} m ahead')
    for name, value in score_plans(plans, [(infos.ego(r), bool(r['fut_valid_flag'])) for r in records]).items():
        print(f'{name} {value:.4f}')


if __name__ == '__main__':
    sys.exit(cli.run(main))
