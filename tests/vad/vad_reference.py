"""The network with the reference's weights, and comparisons with what the original VAD put out for it."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
from mmengine import Config
from mmengine.registry import init_default_scope
from vad_goldens import DATA, arrays

from vadslim.vad import parity

CONFIGS = Path(__file__).parents[2] / 'configs' / 'VAD'
NAMES = ('VAD_tiny_stage_1', 'VAD_tiny_stage_2', 'VAD_tiny_e2e', 'VAD_base_stage_1', 'VAD_base_stage_2', 'VAD_base_e2e')


def config(name: str) -> Config:
    init_default_scope('mmdet3d')
    return Config.fromfile(CONFIGS / f'{name}.py')


@cache
def stored(name: str) -> dict:
    with gzip.open(DATA / name) as file:
        return json.load(file)


@cache
def reference() -> parity.Reference:
    return parity.Reference(DATA / 'reference')


def build_small():
    """VAD-tiny with 20 x 20 cells and the reference's weights."""
    init_default_scope('mmdet3d')
    return parity.build(reference(), 'small', CONFIGS / 'VAD_tiny_stage_2.py')


def deviations(name: str, mine: dict[str, np.ndarray]) -> dict[str, float]:
    """Per float array that both have: largest difference over the largest magnitude; infinite for another shape."""
    out = {}
    for key, true in arrays(name).items():
        if key not in mine or true.dtype.kind not in 'fiub' or not true.size:
            continue
        ours = mine[key]
        if ours.shape != true.shape:
            out[key] = float('inf')
            continue
        difference = np.abs(ours.astype(np.float64) - true.astype(np.float64)).max()
        out[key] = float(difference / max(np.abs(true).max(), 1e-12))
    return out
