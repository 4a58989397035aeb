"""Print a config with everything that it inherits: ``python tools/misc/print_config.py CONFIG [--help]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from vadslim import cli

SUFFIXES = ('.py', '.json', '.yml', '.yaml')


def main(argv: Sequence[str]) -> None:
    """Print, and write it if asked to."""
    parser = cli.Parser(prog='print_config.py', description='Print a config with everything that it inherits.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--save-path', metavar='FILE', help=f'write it as well ({", ".join(SUFFIXES)})')
    cli.add_config_options(parser)
    args = parser.parse_args(argv)
    if args.save_path and Path(args.save_path).suffix not in SUFFIXES:
        raise cli.UserError(f'--save-path {args.save_path}: its name must end with {", ".join(SUFFIXES)}')

    from vadslim import experiment
    from vadslim.options import load_config, merge_texts

    cfg = load_config(args.config)
    merge_texts(cfg, args.cfg_options)
    print(f'Config:\n{cfg.pretty_text}')
    if args.save_path:
        experiment.write_text(args.save_path, text_of(cfg, Path(args.save_path).suffix))


def text_of(cfg, suffix: str) -> str:
    """The config in the format of a file's suffix."""
    import mmengine

    if suffix == '.py':
        return cfg.pretty_text
    return mmengine.dump(cfg.to_dict(), file_format=suffix[1:])


if __name__ == '__main__':
    sys.exit(cli.run(main))
