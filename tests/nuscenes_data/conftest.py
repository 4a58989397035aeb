"""Other layouts of nuScenes, and broken ones, made of links to the synthetic set."""

from collections.abc import Callable
from pathlib import Path

import pytest
from linked_sets import rewrite


@pytest.fixture
def linked(synthetic_root, tmp_path):
    """linked(name, without): the data set by symbolic links, without the files whose path starts so."""

    def link(name: str, without: str | tuple[str, ...] = ()) -> Path:
        root = tmp_path / name
        for source in synthetic_root.rglob('*'):
            relative = source.relative_to(synthetic_root)
            if source.is_file() and not str(relative).startswith(without):
                (root / relative).parent.mkdir(parents=True, exist_ok=True)
                (root / relative).symlink_to(source)
        return root

    return link


@pytest.fixture
def edited(linked):
    """edited(name, table=change, ...): the data set with some tables changed in place by functions of their records."""

    def edit(name: str, **changes: Callable[[list[dict]], object]) -> Path:
        root = linked(name)
        for table, change in changes.items():
            rewrite(root / 'v1.0-mini' / f'{table}.json', change)
        return root

    return edit
