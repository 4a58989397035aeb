"""Runners of these tests do not collect the versions of compilers for their logs: it takes a second each."""

import pytest


@pytest.fixture(autouse=True)
def no_environment_report(monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
