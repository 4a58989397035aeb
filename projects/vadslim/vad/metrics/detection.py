"""Detection as nuScenes scores it: NDS, mAP and the five errors of true positives, by the devkit's own evaluator.

Ours is only what stands around it: which boxes are handed over, in which frame and under which names. The devkit
matches and computes. VAD's configuration ``vad_nusc_detection_cvpr_2019`` is the devkit's ``detection_cvpr_2019`` with
30 m x 15 m around the vehicle in place of a radius per class. As VAD applies it,

- a prediction counts within 30 m ahead or behind and 15 m aside **of the vehicle**, and
- every box, true or predicted, within 30 m along x and 15 m along y of the **global** axes, from the vehicle's origin.

So which true boxes count depends on the direction of travel: where the car drives north or south, those between 15 m
and 30 m ahead do not count, and those between 15 m and 30 m aside do and cannot be found. Published numbers have that
inside. ``range_axes='ego'`` takes the vehicle's axes for both, which is what 30 m x 15 m is meant to say.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import filter_eval_boxes, load_gt_of_sample_tokens
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig, DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval

from vadslim.cli import UserError
from vadslim.nuscenes_data.geometry import rigid_inverse, transform
from vadslim.vad.boxes import to_global

from .task import as_array, register_task

PREFIX = 'pts_bbox_NuScenes'
STANDARD = 'detection_cvpr_2019'
# metres around the vehicle along x and y, for all classes; None: the devkit's radius per class
RANGES = {'vad_nusc_detection_cvpr_2019': (30.0, 15.0), STANDARD: None}
MOVING = 0.2  # m/s; slower is standing still
_MEAN_ERRORS = {'trans_err': 'mATE', 'scale_err': 'mASE', 'orient_err': 'mAOE', 'vel_err': 'mAVE', 'attr_err': 'mAAE'}
# attribute of what stands, and of what moves
_VEHICLE, _CYCLE = ('vehicle.parked', 'vehicle.moving'), ('cycle.without_rider', 'cycle.with_rider')
_ATTRIBUTES = {
    **dict.fromkeys(('car', 'truck', 'trailer', 'construction_vehicle'), _VEHICLE),
    **dict.fromkeys(('bicycle', 'motorcycle'), _CYCLE),
    **dict.fromkeys(('barrier', 'traffic_cone'), ('', '')),
    'bus': ('vehicle.stopped', 'vehicle.moving'),
    'pedestrian': ('pedestrian.standing', 'pedestrian.moving'),
}


@dataclass(frozen=True)
class Detections:
    """What was detected in one sample, in the global frame.

    Attributes:
        token: of the sample.
        ego2global: (4, 4) pose of the vehicle.
        index: (N,) positions in the sample's predictions.
        translation, size, rotation, velocity: (N, 3), (N, 3), (N, 4), (N, 2), see
            :func:`~vadslim.vad.boxes.to_global`.
        scores: (N,) in [0, 1].
        names: N classes.
    """

    token: str
    ego2global: np.ndarray
    index: np.ndarray
    translation: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]

    def records(self) -> Iterator[dict[str, Any]]:
        """The boxes as a devkit result file holds them. Attributes go by class and speed, as VAD's do."""
        moving = np.linalg.norm(self.velocity, axis=1) > MOVING
        columns = (self.translation, self.size, self.rotation, self.velocity, self.scores, moving)
        rows = zip(self.names, *(column.tolist() for column in columns))
        for name, translation, size, rotation, velocity, score, moves in rows:
            yield {
                'sample_token': self.token,
                'translation': translation,
                'size': size,
                'rotation': rotation,
                'velocity': velocity,
                'detection_name': name,
                'detection_score': score,
                'attribute_name': _ATTRIBUTES[name][moves],
            }


@register_task
class DetectionTask:
    """NDS, mAP and the errors mATE, mASE, mAOE, mAVE, mAAE, and those of each class.

    True boxes come from the tables of the data set (``data_root``/``version``), of just the samples that were
    evaluated.

    Args:
        config: ``vad_nusc_detection_cvpr_2019``, or ``detection_cvpr_2019`` for the ranges of the nuScenes
            leaderboard, which is far more than VAD perceives.
        score_threshold: predictions of a lower score do not exist; 0.2 is VAD's.
        range_axes: ``global`` as VAD, or ``ego``; see above. A radius needs no axes.
    """

    name = 'detection'

    def __init__(
        self,
        config: str = 'vad_nusc_detection_cvpr_2019',
        score_threshold: float = 0.2,
        range_axes: str = 'global',
    ) -> None:
        if config not in RANGES:
            raise UserError(f'detection: config is {config!r}, allowed: {", ".join(RANGES)}')
        if range_axes not in ('global', 'ego'):
            raise UserError(f'detection: range_axes is {range_axes!r}, allowed: global, ego')
        self.limits = RANGES[config]
        self.score_threshold = score_threshold
        self.range_axes = range_axes
        self.classes: Sequence[str] = ()
        self.tables: Path | None = None

    def prepare(self, meta: Mapping[str, Any]) -> None:
        """Looks for the tables, before the network runs.

        Args:
            meta: ``data_root`` and ``version`` of the data set, and ``classes``, which labels are positions in.

        Raises:
            UserError: the tables are not there, or hold no annotations.
        """
        self.classes = meta['classes']
        if unknown := sorted(set(self.classes) - set(DETECTION_NAMES)):
            raise UserError(f'detection: the classes {", ".join(unknown)} are none of nuScenes, {_REMEDY}')
        if not meta.get('version'):
            raise UserError(f'detection: the info file does not say of which version of nuScenes it is, {_REMEDY}')
        self.tables = Path(meta['data_root']) / meta['version']
        if meta['version'] == 'v1.0-test':
            raise UserError(f'detection: {meta["version"]} is without annotations, {_REMEDY}')
        for name in _Tables.needed:
            if not (file := self.tables / f'{name}.json').is_file():
                raise UserError(f'detection: {file}: no such file; unpack the tables of nuScenes there, {_REMEDY}')

    def score(self, sample: dict) -> Detections:
        """The predictions that count, in the global frame.

        ``sample`` holds ``pred_instances_3d`` (``bboxes_3d``, ``scores_3d``, ``labels_3d``), ``sample_idx``,
        ``ego2global`` and ``lidar2global``.
        """
        pred = sample['pred_instances_3d']
        boxes, scores, labels = (as_array(pred[key]) for key in ('bboxes_3d', 'scores_3d', 'labels_3d'))
        columns = (*to_global(boxes, sample['lidar2global']), scores.astype(np.float64))
        kept = (scores >= self.score_threshold) & np.isfinite(boxes).all(1)
        if self.limits:
            local = transform(rigid_inverse(sample['ego2global']), columns[0])[:, :2]
            kept &= (np.abs(local) <= self.limits).all(1)
        return Detections(
            str(sample['sample_idx']),
            np.asarray(sample['ego2global']),
            np.flatnonzero(kept),
            *(column[kept] for column in columns),
            names=tuple(self.classes[label] for label in labels[kept]),
        )

    def summarize(self, scores: Sequence[Detections]) -> dict[str, float]:
        """``pts_bbox_NuScenes/NDS``, ``/mAP``, ``/mATE`` ..., ``/car_AP_dist_0.5``, ``/car_trans_err`` ...; nan for
        an error that nuScenes does not define for a class.

        Raises:
            UserError: the tables are damaged, or lack a sample.
        """
        if self.tables is None:
            raise ValueError('detection: prepare() or the dataset_meta of the metric must come first')
        logger = MMLogger.get_current_instance()
        logger.info(f'detection: reading the tables in {self.tables}')
        nusc = _Tables(self.tables)
        tokens = [score.token for score in scores]
        if missing := [token for token in tokens if token not in nusc.known_samples]:
            raise UserError(
                f'detection: {self.tables} lacks {len(missing)} of {len(tokens)} samples, such as {missing[0]}; '
                'the info file was made of other tables'
            )
        poses = {score.token: score.ego2global for score in scores}
        pred = EvalBoxes.deserialize({score.token: score.records() for score in scores}, DetectionBox)
        with _bars_on_terminals_only():
            truth = load_gt_of_sample_tokens(nusc, tokens, DetectionBox, verbose=False)
        cfg = config_factory(STANDARD)
        pred, truth = (self._filtered(nusc, boxes, poses, cfg) for boxes in (pred, truth))
        logger.info(f'detection: {len(pred.all)} predictions, {len(truth.all)} objects in {len(tokens)} samples')
        metrics, _ = _Evaluation(cfg, truth, pred).evaluate()
        return _named(metrics)

    def _filtered(self, nusc: NuScenes, boxes: EvalBoxes, poses: dict[str, np.ndarray], cfg: DetectionConfig):
        """Only boxes in range, hit by a LiDAR or radar point if true, and not in a bicycle rack."""
        for token, pose in poses.items():
            here = boxes[token]
            offset = np.array([box.translation for box in here]).reshape(-1, 3) - pose[:3, 3]
            for box, values in zip(here, offset.tolist()):
                box.ego_translation = tuple(values)
            if self.limits:
                local = offset @ pose[:3, :3] if self.range_axes == 'ego' else offset
                near = (np.abs(local[:, :2]) < self.limits).all(1)
                boxes.boxes[token] = [box for box, is_near in zip(here, near) if is_near]
        if not boxes.all:  # the devkit wants at least one
            return boxes
        radius = dict.fromkeys(DETECTION_NAMES, np.inf) if self.limits else cfg.class_range
        return filter_eval_boxes(nusc, boxes, radius)


_REMEDY = (
    'or leave detection out: --cfg-options test_evaluator.tasks="[map,motion,planning]" (val_evaluator when training)'
)


class _Tables(NuScenes):
    """The devkit's reader without the tables of sensors, which are most of the memory and no part of an annotation.

    Raises:
        UserError: a table is damaged.
    """

    needed = ('category', 'attribute', 'instance', 'sample', 'sample_annotation', 'log', 'map')

    def __init__(self, folder: Path) -> None:
        self.version, self.dataroot = folder.name, str(folder.parent)
        self.table_names = list(self.needed)
        self.sample_data: list[dict] = []
        try:
            for name in self.table_names:
                setattr(self, name, self.__load_table__(name))
            self.__make_reverse_index__(verbose=False)
        except (OSError, ValueError, KeyError, IndexError) as error:
            readable = not isinstance(error, OSError | json.JSONDecodeError)
            said = f'no record {error}' if readable else f'{name}.json: {error}'
            raise UserError(f'detection: {folder} is damaged ({said}); unpack the tables of nuScenes again') from error

    @property
    def known_samples(self) -> Mapping[str, int]:
        return self._token2ind['sample']


class _Evaluation(DetectionEval):
    """The devkit's evaluation of boxes that are in memory already."""

    def __init__(self, cfg: DetectionConfig, gt_boxes: EvalBoxes, pred_boxes: EvalBoxes) -> None:
        self.cfg, self.gt_boxes, self.pred_boxes, self.verbose = cfg, gt_boxes, pred_boxes, False


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """The devkit draws a progress bar into log files as well."""
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        yield


def _named(metrics: DetectionMetrics) -> dict[str, float]:
    values = metrics.serialize()
    named = {'NDS': values['nd_score'], 'mAP': values['mean_ap']}
    named |= {_MEAN_ERRORS[key]: value for key, value in values['tp_errors'].items()}
    for name, aps in values['label_aps'].items():
        named |= {f'{name}_AP_dist_{distance}': value for distance, value in aps.items()}
        named |= {f'{name}_{key}': value for key, value in values['label_tp_errors'][name].items()}
    return {f'{PREFIX}/{key}': float(value) for key, value in named.items()}
