"""The tables of nuScenes, read by the devkit, and what can be wrong with them in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vadslim.cli import UserError

if TYPE_CHECKING:
    from nuscenes import NuScenes

VERSIONS = ('v1.0-trainval', 'v1.0-test', 'v1.0-mini')
TABLES = (
    'category', 'attribute', 'visibility', 'instance', 'sensor', 'calibrated_sensor', 'ego_pose', 'log', 'scene',
    'sample', 'sample_data', 'sample_annotation', 'map',
)  # fmt: skip
REFERENCES = (  # table, field, table in which that token has to stand
    ('scene', 'log_token', 'log'),
    ('sample', 'scene_token', 'scene'),
    ('calibrated_sensor', 'sensor_token', 'sensor'),
    ('instance', 'category_token', 'category'),
    ('sample_data', 'sample_token', 'sample'),
    ('sample_data', 'calibrated_sensor_token', 'calibrated_sensor'),
    ('sample_annotation', 'sample_token', 'sample'),
    ('sample_annotation', 'instance_token', 'instance'),
)
AGAIN = 'unpack the tables of nuScenes again'


def open_tables(root: str | Path, version: str) -> NuScenes:
    """The devkit's reader; what it finds wrong becomes one clear error.

    Raises:
        UserError: a table is missing, truncated or damaged, or a record points nowhere.
    """
    from nuscenes import NuScenes

    folder = Path(root) / version
    try:
        nusc = NuScenes(version=version, dataroot=str(root), verbose=False)
    except Exception as error:  # damaged tables can raise anything
        _check_references(folder, {name: _read(folder / f'{name}.json') for name in TABLES})
        said = str(error) if isinstance(error, AssertionError) else f'{type(error).__name__}: {error}'
        raise UserError(f'{folder}: the tables cannot be used ({said}); {AGAIN}') from error
    _check_references(folder, {name: getattr(nusc, name) for name in ('scene', 'sample', 'log')})
    return nusc


def _read(file: Path) -> list[dict]:
    try:
        records = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f'{file}: cannot be read: {error.strerror}; {AGAIN}') from None
    except ValueError as error:
        raise UserError(f'{file}: is truncated or damaged ({error}); {AGAIN}') from None
    if not isinstance(records, list) or not all(isinstance(r, dict) and 'token' in r for r in records):
        raise UserError(f'{file}: is not a table of nuScenes (a list of records with a token); {AGAIN}')
    return records


def _check_references(folder: Path, tables: dict[str, list[dict]]) -> None:
    """Name the first record that points nowhere, of the references between these tables."""
    tokens = {name: {record['token'] for record in records} for name, records in tables.items()}
    for table, field, target in REFERENCES:
        if not {table, target} <= set(tables):
            continue
        lost = [record for record in tables[table] if record.get(field) not in tokens[target]]
        if lost:
            more = f' (and {len(lost) - 1} more)' if len(lost) > 1 else ''
            where = f'{folder / table}.json: {field} of record {lost[0]["token"]}{more}'
            raise UserError(f'{where} is {lost[0].get(field)!r}, which {target}.json does not have; {AGAIN}')


def get(nusc: NuScenes, table: str, token: str) -> dict:
    """One record.

    Raises:
        UserError: there is none.
    """
    try:
        return nusc.get(table, token)
    except KeyError:
        raise UserError(f'{table}.json has no record {token!r}; {AGAIN}') from None


def chain(nusc: NuScenes, table: str, token: str) -> Iterator[dict]:
    """A record and those after it, by ``next``.

    Raises:
        UserError: it leads nowhere, or in a circle.
    """
    seen: set[str] = set()
    while token:
        if token in seen:
            raise UserError(f'{table}.json: the records after {token!r} form a circle; {AGAIN}')
        seen.add(token)
        record = get(nusc, table, token)
        yield record
        token = record['next']


def pose(nusc: NuScenes, table: str, token: str) -> dict:
    """A record of ``ego_pose`` or ``calibrated_sensor`` whose translation and rotation are what they should be.

    Raises:
        UserError: there is none, or its numbers are not finite, or its quaternion is not one of length 1.
    """
    record = get(nusc, table, token)
    for field, size in (('translation', 3), ('rotation', 4)):
        value = record.get(field)
        if not are_numbers(value, size) or (size == 4 and abs(math.hypot(*value) - 1) > 0.01):
            wanted = 'three finite numbers' if size == 3 else 'a quaternion of length 1'
            raise UserError(f'{table}.json: {field} of record {token} is {value}, not {wanted}; {AGAIN}')
    return record


def are_numbers(value: Any, size: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == size
        and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    )
