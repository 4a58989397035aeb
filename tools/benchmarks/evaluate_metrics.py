#!/usr/bin/env python
"""Time the evaluation of a whole validation set on synthetic predictions: all tasks, or those named.

    python tools/benchmarks/evaluate_metrics.py [--samples 6019] [--tasks map motion planning] [--seed 0]

Sizes of a sample are those of VAD on nuScenes: 300 boxes and 100 map lines of 20 points predicted, 30 agents and 15 map
elements true. The network is not run; one process.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BOXES, LINES, POINTS, AGENTS, ELEMENTS, MODES = 300, 100, 20, 30, 15, 6
CATEGORIES = {
    'car': 'vehicle.car',
    'truck': 'vehicle.truck',
    'construction_vehicle': 'vehicle.construction',
    'bus': 'vehicle.bus.rigid',
    'trailer': 'vehicle.trailer',
    'barrier': 'movable_object.barrier',
    'motorcycle': 'vehicle.motorcycle',
    'bicycle': 'vehicle.bicycle',
    'pedestrian': 'human.pedestrian.adult',
    'traffic_cone': 'movable_object.trafficcone',
}
RANGE = np.array([15.0, 30.0])  # metres around the LiDAR


def walks(rng: np.random.Generator, *shape: int, step: float) -> np.ndarray:
    """Lines (..., points, 2) metres that keep their direction but for a slow turn, somewhere in the range."""
    heading = rng.uniform(0, 2 * np.pi, (*shape[:-1], 1)) + rng.normal(0, 0.1, shape).cumsum(-1)
    steps = step * np.stack([np.cos(heading), np.sin(heading)], -1)
    return (rng.uniform(-RANGE, RANGE, (*shape[:-1], 1, 2)) + steps.cumsum(-2)).clip(-RANGE, RANGE)


def near(rng: np.random.Generator, values: np.ndarray, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """``count`` disturbed copies of the values, and of which each is one."""
    index = rng.integers(0, len(values), count)
    offset = rng.normal(0, noise, (count, *[1] * (values.ndim - 2), values.shape[-1]))
    return (values[index] + offset).astype(np.float32), index


def sample(rng: np.random.Generator, token: str) -> tuple[dict, list[dict]]:
    """What a metric gets of one frame, and its map elements as VAD's file has them."""
    elements, kinds = walks(rng, ELEMENTS, 12, step=3.0), np.arange(ELEMENTS) % 3
    lines, of_element = near(rng, walks(rng, ELEMENTS, POINTS, step=1.7), LINES, 0.7)
    half = LINES // 2  # half of the lines lie on a true one, as those of a trained network
    along = np.linspace(0, elements.shape[1] - 1, POINTS)
    low = np.minimum(along.astype(int), elements.shape[1] - 2)
    exact = elements[:, low] + (along - low)[:, None] * (elements[:, low + 1] - elements[:, low])
    lines[:half], of_element[:half] = near(rng, exact, half, 0.7)

    agents = np.zeros((AGENTS, 9), np.float32)
    agents[:, :2] = rng.uniform(-RANGE, RANGE, (AGENTS, 2))
    agents[:, 3:7] = np.stack([np.full(AGENTS, v) for v in (1.9, 4.6, 1.7, 0.3)], -1)
    labels = rng.integers(0, len(CATEGORIES), AGENTS)
    attrs = np.zeros((AGENTS, 34), np.float32)
    attrs[:, :12], attrs[:, 12:18] = rng.normal(0, 1, (AGENTS, 12)), 1
    attrs[:, 27] = rng.choice([17, 2, 9], AGENTS, p=[0.6, 0.3, 0.1])  # car, pedestrian, barrier
    boxes = agents[of_agent := rng.integers(0, AGENTS, BOXES)].copy()
    boxes[:, :2] += rng.normal(0, 1, (BOXES, 2))
    futures = attrs[of_agent, None, :12] + rng.normal(0, 0.3, (BOXES, MODES, 12))
    steps = np.tile(np.float32([0, 2.0]), (6, 1))
    frame = {
        'sample_idx': token,
        'ego2global': np.eye(4),
        'lidar2global': np.eye(4),
        'fut_valid_flag': True,
        'pred_instances_3d': {
            'bboxes_3d': boxes,
            'labels_3d': labels[of_agent],
            'scores_3d': rng.random(BOXES).astype(np.float32) ** 4,  # few are sure
            'trajs_3d': futures.astype(np.float32),
        },
        'pred_map': {
            'pts': lines,
            'labels': kinds[of_element],
            'scores': rng.random(LINES).astype(np.float32),
        },
        'pred_ego': {'fut_preds': (steps + rng.normal(0, 0.2, (3, 6, 2))).astype(np.float32)},
        'gt_instances_3d': {'bboxes_3d': agents, 'labels_3d': labels, 'attr_labels': attrs},
        'gt_ego': {'fut_trajs': steps, 'fut_cmd': np.float32([0, 0, 1])},
    }
    return frame, [{'pts': p.tolist(), 'type': int(kind), 'cls_name': ''} for p, kind in zip(elements, kinds)]


def write_tables(folder: Path, frames: list[dict], variants: int) -> None:
    """The tables of nuScenes that detection needs; a frame comes again ``variants`` frames later, half a second on."""
    from vadslim.vad.boxes import to_global

    def rows(make: Callable[[int], dict], count: int) -> list[dict]:
        return [{'token': str(i), **make(i)} for i in range(count)]

    names = list(CATEGORIES.values())
    annotations = []
    for i, frame in enumerate(frames):
        agents = frame['gt_instances_3d']
        columns = [column.tolist() for column in to_global(agents['bboxes_3d'], np.eye(4))[:3]]
        for j, (translation, size, rotation) in enumerate(zip(*columns)):
            annotations.append(
                {
                    'token': f'{i}/{j}',
                    'sample_token': frame['sample_idx'],
                    'instance_token': str(int(agents['labels_3d'][j])),
                    'attribute_tokens': [],
                    'translation': translation,
                    'size': size,
                    'rotation': rotation,
                    'prev': f'{i - variants}/{j}' if i >= variants else '',
                    'next': f'{i + variants}/{j}' if i + variants < len(frames) else '',
                    'num_lidar_pts': 9,
                    'num_radar_pts': 0,
                }
            )
    samples = [{'token': f['sample_idx'], 'timestamp': i // variants * 500_000} for i, f in enumerate(frames)]
    tables = {
        'category': rows(lambda i: {'name': names[i]}, len(names)),
        'instance': rows(lambda i: {'category_token': str(i)}, len(names)),
        'attribute': [],
        'sample': samples,
        'sample_annotation': annotations,
        'log': rows(lambda _: {}, 1),
        'map': rows(lambda _: {'log_tokens': ['0']}, 1),
    }
    folder.mkdir()
    for name, table in tables.items():
        (folder / f'{name}.json').write_text(json.dumps(table))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--samples', type=int, default=6019, help='number of samples (default: the validation set)')
    parser.add_argument('--tasks', nargs='+', metavar='TASK', help='default: all')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()

    from rich.progress import track

    from vadslim.checkpoint import dump_info
    from vadslim.vad.metrics import TASKS

    if unknown := set(args.tasks or ()) - set(TASKS):
        parser.error(f'--tasks: unknown {", ".join(sorted(unknown))}, allowed: {", ".join(sorted(TASKS))}')
    rng = np.random.default_rng(args.seed)
    tokens = [f'{i:032x}' for i in range(args.samples)]
    variants = [sample(rng, token) for token in tokens[:100]]  # of which all samples are made
    frames = [{**variants[i % len(variants)][0], 'sample_idx': token} for i, token in enumerate(tokens)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dump_info(
            {'infos': [{'token': t, 'map_location': 'nowhere'} for t in tokens], 'metadata': {}}, root / 'val.pkl'
        )
        vectors = [{'sample_token': t, 'vectors': variants[i % len(variants)][1]} for i, t in enumerate(tokens)]
        (root / 'map.json').write_text(json.dumps({'GTs': vectors}))
        truth = {'file': str(root / 'map.json'), 'ann_file': str(root / 'val.pkl'), 'data_root': folder}
        write_tables(root / 'v1.0-trainval', frames, len(variants))
        meta = {
            'map_truth': {**truth, 'patch_size': (60.0, 30.0)},
            'classes': list(CATEGORIES),
            'data_root': folder,
            'version': 'v1.0-trainval',
        }
        total = 0.0
        for name in sorted(args.tasks or TASKS):
            task = TASKS[name]()
            begin, used = time.perf_counter(), time.process_time()
            if hasattr(task, 'prepare'):
                task.prepare(meta)
            ready = time.perf_counter()
            scores = [task.score(frame) for frame in track(frames, description=f'{name:10}')]
            scored = time.perf_counter()
            task.summarize(scores)
            end = time.perf_counter()
            parts = (
                f'{ready - begin:.1f} s before, {scored - ready:.1f} s for the samples, {end - scored:.1f} s at the end'
            )
            used = time.process_time() - used  # less than the wall's where others use the processor too
            print(
                f'{name:10} {end - begin:6.1f} s for {args.samples} samples, {used:.1f} s of CPU time ({parts})',
                flush=True,
            )
            total += used
    print(f'{"together":10} {total:6.1f} s of CPU time')
    return 0


if __name__ == '__main__':
    sys.exit(main())
