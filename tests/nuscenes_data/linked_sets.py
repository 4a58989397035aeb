"""Changes to the tables of a data set that is made of links."""

import json
from collections.abc import Callable
from pathlib import Path


def rewrite(file: Path, change: Callable[[list[dict]], object]) -> None:
    """Change a table, which may be a link."""
    records = json.loads(file.read_text())
    change(records)
    file.unlink()
    file.write_text(json.dumps(records))
