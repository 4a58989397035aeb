"""Runners of these tests spend no time on how their log looks."""

import pytest


@pytest.fixture(autouse=True)
def plain_logs(monkeypatch):
    """No versions of compilers (a second each), no formatting of configs (many for a structure's long lists)."""
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
