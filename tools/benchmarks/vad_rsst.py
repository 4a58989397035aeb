#!/usr/bin/env python
"""Compare RSST with one-shot slimming on VAD: the same units' worth removed, the same number of training epochs.

    python tools/benchmarks/vad_rsst.py CHECKPOINT --output-dir OUT [--ratios 0.3] [--epochs 4] [--rsst-epochs 2]
        [--cfg-options data_root=data/synthetic-nuscenes/]

For each ratio: one-shot slimming, then all epochs of fine-tuning; RSST for some of the epochs, slimming, then the rest
of the epochs; and once the dense network, trained on for all of them. Each network is rated right after slimming and at
the end. All of it by the project's own commands, each a step in a folder of its own: stopped at any moment, the same
command goes on where it was. The table is printed and written to OUT/table.md, the numbers to OUT/results.json.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vadslim import cli
from vadslim.checkpoint import atomic_write
from vadslim.cli import UserError, say
from vadslim.stages import Step, run_step

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
LOG = 'log.txt'
LEAVES = (
    LOG,
    'epoch_*.pth',
    'latest.pth',
    'last_checkpoint',
    'structure.json',
    '*.py',
    '[0-9]' * 8 + '_' + '[0-9]' * 6,
)
#: Column -> the metrics of which it is the mean
COLUMNS = {
    **{f'L2 {time} s': [f'plan_L2_at_{time}s'] for time in (1, 2, 3)},
    'collisions %': [f'plan_obj_box_col_{time}s' for time in (1, 2, 3)],
    'NDS': ['pts_bbox_NuScenes/NDS'],
    'map mAP': ['NuscMap_chamfer/mAP'],
}


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    config: Path
    rsst_config: Path
    out: Path
    epochs: int
    rsst_epochs: int
    lr: float
    warmup: int
    seed: int
    options: tuple[str, ...]
    overwrite: bool

    def run(self, folder: str, tool: str, inputs: dict[str, Path], arguments: Sequence[Any], output: str) -> Path:
        """One command as a step; its output."""
        shown = [argument.name if isinstance(argument, Path) else str(argument) for argument in arguments]

        def work(step: Step) -> tuple[list[str], None]:
            say(f'{folder}: {tool} {" ".join(shown)}')
            more = ['--resume'] if tool == 'train.py' and (step.folder / 'last_checkpoint').is_file() else []
            command = [sys.executable, ROOT / 'tools' / tool, *arguments, *more]
            if more:  # the checkpoint in the folder is where it goes on
                at = command.index('--load-from')
                del command[at : at + 2]
            with (step.folder / LOG).open('a', encoding='utf-8') as log:
                code = subprocess.run([str(part) for part in command], stdout=log, stderr=log, check=False).returncode
            if code:
                last = (step.folder / LOG).read_text(encoding='utf-8').strip().rpartition('\n')[2]
                raise UserError(f'{folder}: {tool} ended with {code} ({last}); see {step.folder / LOG}')
            return [output], None

        recipe = {'tool': tool, 'arguments': shown, 'config': self._text()}
        run_step(self.out / folder, folder, work, recipe, inputs, self.overwrite, LEAVES)
        return self.out / folder / output

    def _text(self) -> list[Any]:
        from vadslim.slimming.network import read_config

        return [read_config(path, self.options).to_dict() for path in (self.config, self.rsst_config)]

    def train(self, folder: str, start: Path, epochs: int) -> Path:
        """Train the network of a checkpoint, dense or slim, under the config's schedule."""
        law = [f'optim_wrapper.optimizer.lr={self.lr}', f'param_scheduler.0.end={self.warmup}']
        return self._train(folder, self.config, start, epochs, law, f'epoch_{epochs}.pth')

    def rsst(self, folder: str, start: Path, ratio: float) -> Path:
        """Train the dense network under RSST; the slim one."""
        law = [f'custom_hooks.0.ratio={ratio}']
        return self._train(folder, self.rsst_config, start, self.rsst_epochs, law, 'slim.pth')

    def _train(self, folder: str, config: Path, start: Path, epochs: int, law: list[str], output: str) -> Path:
        options = [*self.options, *law, f'train_cfg.max_epochs={epochs}']
        arguments = [config, '--work-dir', self.out / folder, '--load-from', start, '--no-validate']
        arguments += ['--seed', self.seed, '--cfg-options', *options]
        return self.run(folder, 'train.py', {'start': start}, arguments, output)

    def slim(self, folder: str, start: Path, ratio: float) -> Path:
        """Slim at once."""
        arguments = [self.config, start, '--pruning-ratio', ratio, '--output-dir', self.out / folder / 'pruned']
        arguments += ['--cfg-options', *self.options] if self.options else []
        return self.run(folder, 'analysis_struct.py', {'start': start}, arguments, 'pruned/vad_structured_pruned.pth')

    def rate(self, folder: str, checkpoint: Path) -> dict[str, float]:
        """The metrics of a network on the test data, its parameters and MACs."""
        folder = f'{folder}_rated'
        arguments = [self.config, checkpoint, '--work-dir', self.out / folder]
        arguments += ['--out', self.out / folder / 'metrics.json', '--seed', self.seed]
        arguments += ['--cfg-options', *self.options] if self.options else []
        file = self.run(folder, 'test.py', {'checkpoint': checkpoint}, arguments, 'metrics.json')
        metrics = json.loads(file.read_text(encoding='utf-8'))
        row = {name: sum(metrics[part] for part in parts) / len(parts) for name, parts in COLUMNS.items()}
        return row | size(self.config, checkpoint, self.options)


def size(config: Path, checkpoint: Path, options: Sequence[str]) -> dict[str, float]:
    """Parameters, and MACs of one forward at the sizes that the model declares."""
    from vadslim.analysis import count_params
    from vadslim.slimming.network import load_network

    network = load_network(config, options, checkpoint, 0, 'cpu')
    example = network.examples[1]
    assert example is not None
    return {'params': count_params(network.model), 'MACs': example.count(network.model).macs}


def rows(plan: Plan, checkpoint: Path, ratios: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Everything that is compared, in the order of the table."""
    rest = plan.epochs - plan.rsst_epochs
    yield {'what': 'dense', 'epochs': 0, **plan.rate('dense', checkpoint)}
    for ratio in ratios:
        name = f'{ratio:g}'
        one_shot = plan.slim(f'one_shot_{name}', checkpoint, ratio)
        yield {'what': f'one-shot {name}', 'epochs': 0, **plan.rate(f'one_shot_{name}', one_shot)}
        rsst = plan.rsst(f'rsst_{name}', checkpoint, ratio)
        yield {'what': f'RSST {name}', 'epochs': plan.rsst_epochs, **plan.rate(f'rsst_{name}', rsst)}
        tuned = plan.train(f'rsst_{name}_tuned', rsst, rest)
        yield {'what': f'RSST {name}, fine-tuned', 'epochs': plan.epochs, **plan.rate(f'rsst_{name}_tuned', tuned)}
        tuned = plan.train(f'one_shot_{name}_tuned', one_shot, plan.epochs)
        row = plan.rate(f'one_shot_{name}_tuned', tuned)
        yield {'what': f'one-shot {name}, fine-tuned', 'epochs': plan.epochs, **row}
    trained = plan.train('dense_trained', checkpoint, plan.epochs)
    yield {'what': 'dense, trained on', 'epochs': plan.epochs, **plan.rate('dense_trained', trained)}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    names = ['network', 'epochs', *COLUMNS, 'parameters', 'MACs']
    lines = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for row in found:
        numbers = [f'{row[name] * 100:.2f}' if '%' in name else f'{row[name]:.3f}' for name in COLUMNS]
        sizes = [f'{row["params"]:,}', f'{row["MACs"] / 1e9:.2f} G']
        lines.append(f'| {" | ".join([row["what"], str(row["epochs"]), *numbers, *sizes])} |')
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str]) -> None:
    """Compare."""
    parser = cli.Parser(prog='vad_rsst.py', description='RSST beside one-shot slimming, at the same training budget.')
    add = parser.add_argument
    add('checkpoint', type=Path, help='of the trained dense network')
    add('--output-dir', type=Path, required=True, metavar='DIR')
    add('--config', type=Path, default=CONFIGS / 'VAD' / 'VAD_nano_synthetic.py', help='of the dense network')
    add('--rsst-config', type=Path, default=CONFIGS / 'sparse' / 'vad_nano_rsst.py')
    add('--ratios', type=cli.fraction, nargs='+', default=[0.3], metavar='R', help='fractions of units removed (0.3)')
    add('--epochs', type=cli.at_least(2), default=4, metavar='N', help='of training, all together (4)')
    add('--rsst-epochs', type=cli.at_least(1), default=2, metavar='M', help='of these, under RSST (2)')
    add('--lr', type=float, default=5e-4, help='of fine-tuning (5e-4); that of RSST stands in its config')
    add('--warmup', type=cli.at_least(1), default=20, metavar='N', help='iterations (20)')
    add('--seed', type=int, default=0)
    add('--overwrite', action='store_true', help='replace results of another recipe')
    cli.add_config_options(parser)
    args = parser.parse_args(argv)
    if args.rsst_epochs >= args.epochs:
        raise UserError(f'--rsst-epochs {args.rsst_epochs}: fewer than --epochs {args.epochs} are needed')
    for file in (args.checkpoint, args.config, args.rsst_config):
        if not file.is_file():
            raise UserError(f'{file}: no such file')
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    paths = args.config, args.rsst_config, args.output_dir.absolute()
    budget = args.epochs, args.rsst_epochs, args.lr, args.warmup, args.seed
    plan = Plan(*paths, *budget, tuple(args.cfg_options), args.overwrite)
    found = []
    for row in rows(plan, args.checkpoint.absolute(), args.ratios):
        found.append(row)
        text = table(found)
        for name, content in (('table.md', text), ('results.json', json.dumps(found, indent=1))):
            with atomic_write(args.output_dir / name) as file:
                file.write(content)
        say(text.splitlines()[-1])
    print(text, end='')


if __name__ == '__main__':
    sys.exit(cli.run(main))
