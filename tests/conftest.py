"""What all tests share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope='module', autouse=True)
def no_default_scope_from_elsewhere() -> Iterator[None]:
    """A Runner leaves its default scope behind, and registries of other packages would follow it."""
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()
