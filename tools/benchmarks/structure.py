#!/usr/bin/env python
"""Time and memory of the commands that read headers, whole processes on two cores, against their limits.

    python tools/benchmarks/structure.py [--runs 7] [--output numbers.json]

The models are Llama-3-8B (8,030,261,248 parameters, 4 shards) and what pruning leaves of it: sparse files with true
headers, which take no disk. Exit code 1 if a median is above its limit.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vadslim import cli
from vadslim.analysis.config_shapes import tensors_of
from vadslim.analysis.headers import Entry, read_headers
from vadslim.files import atomic_write

TOOLS = Path(__file__).resolve().parents[1] / 'analysis_tools'
LLAMA = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'vocab_size': 128256,
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'num_hidden_layers': 32,
    'num_attention_heads': 32,
    'num_key_value_heads': 8,
    'torch_dtype': 'bfloat16',
}
#: case -> seconds and megabytes that a median may take; None: no limit
LIMITS = {
    'python -c pass': (None, None),
    'model_analysis.py, 8 billion parameters': (1.0, 200.0),
    'model_analysis.py, compared with the original': (None, None),
    'batch_model_analysis.py': (None, None),
    'summarize_model_structures.py': (2.0, None),
}
#: starts a command and writes its numbers; by a process of its own, as memory before exec counts as the command's
LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - begin
code = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], 'w') as file:
    print([code, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file=file)
"""


def write_folder(folder: Path, tensors: Mapping[str, Entry], config: Mapping[str, object], shards: int = 4) -> None:
    """A sharded safetensors folder whose weights are holes."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps(config))
    names = list(tensors)
    places = {}
    for number in range(shards):
        file = f'model-{number + 1:05d}-of-{shards:05d}.safetensors'
        header, end = {}, 0
        for name in names[number::shards]:
            start, end = end, end + tensors[name].size
            header[name] = {
                'dtype': tensors[name].dtype,
                'shape': tensors[name].shape,
                'data_offsets': [start, end],
            }
            places[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open('wb') as output:
            output.write(struct.pack('<Q', len(text)) + text)
            output.truncate(8 + len(text) + end)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))


def write_pruned(folder: Path, number: int) -> None:
    """Llama-3-8B with 1 to 9 layers fewer, and a few MLPs gone or half as wide."""
    config = {**LLAMA, 'num_hidden_layers': 31 - number % 9}
    tensors = dict(tensors_of(config))
    for layer in range(number % 5):
        for part, shape in (('gate_proj', (7168, 4096)), ('up_proj', (7168, 4096)), ('down_proj', (4096, 7168))):
            name = f'model.layers.{3 * layer + number % 3}.mlp.{part}.weight'
            if layer % 2:
                del tensors[name]
            else:
                tensors[name] = Entry(shape, 'BF16')
    write_folder(folder, tensors, config)


def write_results(folder: Path, original: Path, pruned: Path, count: int) -> None:
    """What the commands write of ``count`` models, each as large as these."""
    from vadslim.analysis.model_comparison import compare_structures
    from vadslim.analysis.model_structure import analyse

    base, model = (analyse(read_headers(path)).to_dict() for path in (original, pruned))
    files = {'model_structure.json': model, 'model_comparison.json': compare_structures(base, model)}
    for number in range(count):
        place = folder / f'model_{number:03d}' / 'analysis'
        place.mkdir(parents=True)
        for name, data in files.items():
            (place / name).write_text(json.dumps(data, indent=2, ensure_ascii=False))


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Seconds from start to end of a process, CPU seconds of it and its children, and the most memory of one, in MB."""
    printed, numbers = folder / 'printed.txt', folder / 'numbers.json'
    with printed.open('w') as output:
        launcher = [sys.executable, '-I', '-S', '-c', LAUNCHER, str(numbers), *command]
        subprocess.run(launcher, stdout=output, stderr=subprocess.STDOUT, cwd=folder, check=True)
    code, seconds, cpu, kilobytes = json.loads(numbers.read_text())
    if code:
        last = (printed.read_text().splitlines() or [''])[-1]
        raise cli.UserError(f'{" ".join(command)}: exit code {code}: {last}')
    return {'seconds': seconds, 'cpu': cpu, 'megabytes': kilobytes / 1024}


def commands(folder: Path, models: int, results: int) -> dict[str, list[str]]:
    """Writes what is read, and gives the commands that read it."""
    llama, pruned, results_folder = folder / 'Llama-3-8B', folder / 'models', folder / 'results'
    write_folder(llama, tensors_of(LLAMA), LLAMA)
    for number in range(models):
        write_pruned(pruned / f'pruned_{number:02d}', number)
    write_results(results_folder, llama, pruned / 'pruned_00', results)

    def tool(name: str, *arguments: object) -> list[str]:
        return [sys.executable, str(TOOLS / f'{name}.py'), *map(str, arguments)]

    one = ('--model_path', pruned / 'pruned_00', '--compare_with', llama, '--output_dir', folder / 'two')
    batch = ('--models_dir', pruned, '--base_model', llama, '--output_dir', folder / 'batch', '--merge_results')
    given = [
        [sys.executable, '-c', 'pass'],
        tool('model_analysis', '--model_path', llama, '--output_dir', folder / 'one'),
        tool('model_analysis', *one),
        tool('batch_model_analysis', *batch),
        tool('summarize_model_structures', '--dirs', results_folder, '--output', folder / 'summary'),
    ]
    return dict(zip(LIMITS, given))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=7, help='of each command, after one that does not count')
    parser.add_argument('--models', type=int, default=20, help='of the batch')
    parser.add_argument('--results', type=int, default=100, help='that are summarised')
    parser.add_argument('--output', type=Path, help='a JSON file of all numbers')
    options = parser.parse_args(argv)
    if min(options.runs, options.models, options.results) < 1:
        parser.error('--runs, --models and --results must be at least 1')
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)  # which the commands inherit
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, command in commands(folder, options.models, options.results).items():
            runs = [measure(command, folder) for _ in range(options.runs + 1)][1:]
            numbers = {kind: [run[kind] for run in runs] for kind in runs[0]}
            rows.append({'case': case, **numbers, 'limits': LIMITS[case], 'cores': len(cores)})
    if options.output:
        with atomic_write(options.output) as file:
            json.dump({'models': options.models, 'results': options.results, 'rows': rows}, file, indent=2)
    return report(rows)


def report(rows: list[dict]) -> int:
    """Prints the table; 1 if a limit is broken."""
    print(f'{"whole process":48} {"median s":>9} {"fastest":>9} {"slowest":>9} {"CPU s":>7} {"MB":>6}   limits')
    broken = False
    for row in rows:
        median = {kind: statistics.median(row[kind]) for kind in ('seconds', 'cpu', 'megabytes')}
        verdicts = []
        for kind, unit, limit in zip(('seconds', 'megabytes'), ('s', 'MB'), row['limits']):
            if limit is not None:
                broken |= median[kind] > limit
                verdicts.append(f'{limit:g} {unit}: {"FAIL" if median[kind] > limit else "pass"}')
        times = ' '.join(f'{value:9.3f}' for value in (median['seconds'], min(row['seconds']), max(row['seconds'])))
        print(f'{row["case"]:48} {times} {median["cpu"]:7.2f} {median["megabytes"]:6.0f}   {", ".join(verdicts)}')
    return int(broken)


if __name__ == '__main__':
    sys.exit(cli.run(main))
