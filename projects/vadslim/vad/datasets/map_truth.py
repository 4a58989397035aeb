"""The map ground truth of an evaluation, in the file that VAD keeps it in.

``nuscenes_map_anns_val.json`` holds ``GTs``, a list with ``sample_token`` and ``vectors`` of each sample, and of each
vector ``pts`` (metres, LiDAR frame), ``pts_num``, ``cls_name`` and ``type``. A ``fingerprint`` beside the list, which
VAD does not read, says what it was made of: with another info file, map, range or set of classes it is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vadslim.checkpoint import load_info
from vadslim.cli import UserError, say
from vadslim.files import atomic_write
from vadslim.nuscenes_data.vector_map import MAP_CLASSES, VectorMap, check_maps, expansion_file
from vadslim.vad.datasets import infos

FILE = 'nuscenes_map_anns_val.json'

Truth = dict[str, list[tuple[int, np.ndarray]]]
"""Sample token -> (index in MAP_CLASSES, points (P, 2) float64) of every map element."""


@dataclass(frozen=True)
class MapTruth:
    """What the ground truth is made of, and the file where it is kept.

    Args:
        file: the json.
        ann_file: info file of the samples.
        data_root: folder that holds ``maps/expansion``.
        patch_size: (extent along y, along x) around the LiDAR, metres.
        classes: which of MAP_CLASSES.
    """

    file: str
    ann_file: str
    data_root: str
    patch_size: tuple[float, float]
    classes: tuple[str, ...] = MAP_CLASSES

    def load(self, keep: bool = True, track: Callable[[Sequence[dict]], Iterable[dict]] = iter) -> Truth:
        """The ground truth, from the file if that is up to date, else made from the map expansion.

        Args:
            keep: write what was made to the file. Of several processes one does.
            track: wraps the iteration over the samples, for a progress bar.

        Raises:
            UserError: there is neither the file nor the map expansion.
        """
        content, wrong = self._read()
        if not wrong:
            return _truth(content)
        records = load_info(self.ann_file)['infos']
        try:
            check_maps(self.data_root, {record['map_location'] for record in records})
        except UserError as error:
            if content and 'fingerprint' not in content:  # VAD's own file; nothing speaks against it
                truth = _truth(content)
                if all(record['token'] in truth for record in records):
                    say(f'{self.file}: {wrong}; taken as it is, as there is no map expansion to check it by')
                    return truth
                wrong = 'lacks samples of the info file'
            what = f'the map expansion, or {self.file} ({wrong})'
            raise UserError(
                f'{error}. The evaluation of the map needs {what}; or name other tasks in the config'
            ) from None
        if keep and wrong != 'is not there':
            say(f'{self.file}: {wrong}; it is made anew')
        content = {'fingerprint': self.fingerprint(records), 'GTs': [self._annotate(r) for r in track(records)]}
        if keep:
            try:
                with atomic_write(self.file) as file:
                    file.write(json.dumps(content))
            except OSError as error:
                say(
                    f'{self.file}: cannot be written ({error.strerror}); the map of the next evaluation is cut out anew'
                )
        return _truth(content)

    def fingerprint(self, records: Iterable[dict]) -> dict[str, Any]:
        """Everything that the ground truth depends on."""
        locations = sorted({record['map_location'] for record in records})
        return {
            'format': 1,
            'info_file': _sha256(self.ann_file),
            'maps': {location: _sha256(expansion_file(self.data_root, location)) for location in locations},
            'patch_size': list(self.patch_size),
            'classes': list(self.classes),
        }

    def _read(self) -> tuple[dict[str, Any], str]:
        """The content of the file, empty if it is not readable, and what speaks against using it, '' for nothing."""
        try:
            content = json.loads(Path(self.file).read_bytes())
            _truth(content)
        except FileNotFoundError:
            return {}, 'is not there'
        except OSError as error:
            return {}, f'cannot be read ({error.strerror})'
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return {}, 'is damaged or not the map ground truth'
        known = content.get('fingerprint')
        if not isinstance(known, dict):
            return content, 'does not say what it was made of'
        maps = known.get('maps')
        if known.get('format') != 1 or not isinstance(maps, dict):
            return content, 'is of an unknown format'
        if known.get('info_file') != _sha256(self.ann_file):
            return content, 'was made for another info file'
        if known.get('patch_size') != list(self.patch_size):
            return content, 'was made for another range'
        if known.get('classes') != list(self.classes):
            return content, 'was made for other classes'
        for location, digest in maps.items():
            path = expansion_file(self.data_root, location)
            if path.is_file() and _sha256(path) != digest:
                return content, f'was made from another map of {location}'
        return content, ''

    def _annotate(self, record: dict) -> dict[str, Any]:
        """The entry of one sample."""
        vector_map = VectorMap(self.data_root, self.patch_size, self.classes)
        lines, labels = vector_map.lines(record['map_location'], infos.lidar2global(record))
        vectors = [
            {'pts': points, 'pts_num': len(points), 'cls_name': MAP_CLASSES[label], 'type': label}
            for points, label in ((np.asarray(line.coords).tolist(), label) for line, label in zip(lines, labels))
        ]
        return {'sample_token': record['token'], 'vectors': vectors}


def _truth(content: dict) -> Truth:
    return {
        sample['sample_token']: [
            (int(vector['type']), np.array(vector['pts'], np.float64)[:, :2]) for vector in sample['vectors']
        ]
        for sample in content['GTs']
    }


def _sha256(path: str | Path) -> str:
    try:
        with Path(path).open('rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else _digest(file)
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}') from None


def _digest(file: Any) -> str:
    """As ``hashlib.file_digest``, which came with Python 3.11."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
