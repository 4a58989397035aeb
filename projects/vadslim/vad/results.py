"""Result files: what a network predicted, sample by sample, as one JSON file.

    {"meta": {"use_camera": true, ..., "format": "vadslim results 1"},
     "results": {token: [box, ...]},         a detection submission to nuScenes, in the global frame; each box also has
                                             "fut_traj" [M][6][2] positions and "fut_score" [M]
     "map_results": {token: [{"cls_name": "divider", "pts": [[x, y], ...], "score": s}, ...]},
     "plan_results": {token: {"plans": [3][6][2] positions, "command": 0, 1 or 2, null if the data set has none}}}

Positions and points are metres in the LiDAR frame of the sample, to a tenth of a millimetre. The devkit's evaluator
takes the file as it is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from mmengine.dist import all_gather_object, barrier, is_main_process

from vadslim.cli import UserError
from vadslim.files import StrPath, atomic_write
from vadslim.nuscenes_data.vector_map import MAP_CLASSES

if TYPE_CHECKING:
    from vadslim.vad.metrics.detection import Detections

FORMAT = 'vadslim results 1'
FILE_NAME = 'results_nusc.json'
META = {
    'use_camera': True,
    'use_lidar': False,
    'use_radar': False,
    'use_map': False,
    'use_external': True,  # the CAN bus
    'format': FORMAT,
}
SECTIONS = ('results', 'map_results', 'plan_results')


def read_results(path: StrPath) -> dict[str, Any]:
    """A whole result file.

    Raises:
        UserError: there is none, it is damaged, or another program wrote it.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}') from None
    except ValueError as error:
        raise UserError(f'{path}: is truncated or no JSON file ({error})') from None
    if not isinstance(content, dict) or not isinstance(content.get('meta'), dict):
        raise UserError(f'{path}: not a result file; tools/test.py --json_dir DIR writes them')
    if content['meta'].get('format') != FORMAT or any(not isinstance(content.get(s), dict) for s in SECTIONS):
        raise UserError(f'{path}: not a result file of the format "{FORMAT}"; tools/test.py --json_dir DIR writes them')
    return content


def sample_results(sample: Mapping[str, Any], detections: Detections) -> dict[str, Any]:
    """One sample's part of each section.

    Args:
        sample: a data sample as nested dicts: ``pred_instances_3d`` with ``trajs_3d``, ``traj_scores_3d`` and
            ``bboxes_3d``, ``pred_map``, ``pred_ego``, and ``gt_ego`` if the data set has it.
        detections: its boxes.
    """
    from vadslim.vad.metrics.task import accumulate, as_array

    agents, vectors = sample['pred_instances_3d'], sample['pred_map']
    boxes, trajs, modes = (
        as_array(agents[key])[detections.index] for key in ('bboxes_3d', 'trajs_3d', 'traj_scores_3d')
    )
    steps = trajs.reshape(*trajs.shape[:2], trajs.shape[2] // 2, 2)
    futures = accumulate(steps, 2) + boxes[:, None, None, :2]
    records = [
        {**record, 'fut_traj': future, 'fut_score': scores}
        for record, future, scores in zip(detections.records(), _rounded(futures), _rounded(modes))
    ]
    columns = (_rounded(as_array(vectors['pts'])), as_array(vectors['scores']).tolist(), as_array(vectors['labels']))
    lines = [{'cls_name': MAP_CLASSES[label], 'pts': pts, 'score': score} for pts, score, label in zip(*columns)]
    command = int(as_array(sample['gt_ego']['fut_cmd']).argmax()) if 'gt_ego' in sample else None
    plans = _rounded(accumulate(as_array(sample['pred_ego']['fut_preds']), 1))
    return dict(zip(SECTIONS, (records, lines, {'plans': plans, 'command': command})))


def _rounded(values: np.ndarray) -> list:
    return values.astype(np.float64).round(4).tolist()


class ResultsWriter:
    """Writes ``FOLDER/results_nusc.json`` with no more than one sample in memory.

    Every process puts its samples into files of its own in ``FOLDER``; in the end the first one puts all of them
    together, sorted by token, each once. Until then nothing appears under the final name.

    Args:
        folder: made if needed; several processes share it.

    Raises:
        UserError: it cannot be written to.
    """

    def __init__(self, folder: StrPath) -> None:
        self.path = Path(folder) / FILE_NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=f'.{FILE_NAME}.', dir=folder)
        except OSError as error:
            raise UserError(f'{folder}: results cannot be written there: {error.strerror}') from None
        self._files = [(Path(self._folder.name) / section).open('w', encoding='utf-8') for section in SECTIONS]

    def add(self, token: str, sections: Mapping[str, Any]) -> None:
        """Writes what :func:`sample_results` gives for a sample."""
        for section, file in zip(SECTIONS, self._files):
            file.write(f'{token}\t{json.dumps(sections[section], separators=(",", ":"))}\n')

    def finish(self) -> Path:
        """Puts the file in its place; all processes call it."""
        for file in self._files:
            file.close()
        parts = [Path(part) for part in all_gather_object(self._folder.name)]
        try:
            if is_main_process():
                with atomic_write(self.path, 'wb') as out:
                    _merge(parts, out)
            barrier()
        except OSError as error:
            raise UserError(f'{self.path}: cannot be written: {error.strerror} ({error.filename})') from None
        finally:
            self.discard()
        return self.path

    def discard(self) -> None:
        """Removes what was written so far."""
        for file in self._files:
            file.close()
        self._folder.cleanup()


def _merge(parts: list[Path], out: IO[bytes]) -> None:
    out.write(b'{"meta":' + json.dumps(META).encode())
    for section in SECTIONS:
        out.write(f',\n"{section}":{{'.encode())
        with ExitStack() as stack:
            files = [stack.enter_context((part / section).open('rb')) for part in parts]
            places: dict[bytes, tuple[IO[bytes], int]] = {}
            for file in files:
                end = 0
                for line in file:
                    places.setdefault(line[: line.index(b'\t')], (file, end))
                    end += len(line)
            for i, (token, (file, place)) in enumerate(sorted(places.items(), key=lambda item: item[0])):
                file.seek(place)
                value = file.readline()[len(token) + 1 : -1]
                out.write(b',\n"' * (i > 0) + b'\n"' * (i == 0) + token + b'":' + value)
        out.write(b'}')
    out.write(b'}\n')
