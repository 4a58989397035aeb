"""Result files: detections in the devkit's format, with map, motion and plan beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vadslim.cli import UserError


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a result file.

    Returns:
        ``results``, ``map_results`` and ``plan_results`` by token of the frame, and ``meta``. Parts that the file
        lacks are empty.

    Raises:
        UserError: there is none, or it is another kind of file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise UserError(f'{path}: not a result file (results_nusc.json): {error}') from None
    if not isinstance(content, dict) or not isinstance(content.get('results'), dict):
        raise UserError(f'{path}: not a result file (results_nusc.json): it has no "results"')
    return {'meta': {}, 'map_results': {}, 'plan_results': {}, **content}
