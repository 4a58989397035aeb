"""Fixtures shared by the tests of the VAD part."""

from __future__ import annotations

from pathlib import Path

import pytest

SYNTHETIC_SAMPLES = 12


@pytest.fixture(scope='session')
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic nuScenes of one train and one val scene with 12 keyframes each; treat it as read-only."""
    from vadslim.vad.datasets.synthetic import Settings, generate

    root = tmp_path_factory.mktemp('synthetic') / 'nuscenes'
    generate(root, Settings(scenes=2, seed=0, samples=SYNTHETIC_SAMPLES))
    return root
