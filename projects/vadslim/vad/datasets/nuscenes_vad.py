"""The nuScenes dataset of VAD: multi-view images in short queues, agents, ego motion and the vector map."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet3d.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData

from vadslim.checkpoint import load_info
from vadslim.cli import UserError, say
from vadslim.nuscenes_data.vector_map import MAP_CLASSES, VectorMap, check_maps
from vadslim.vad.datasets import infos
from vadslim.vad.datasets.map_lines import map_targets
from vadslim.vad.datasets.map_truth import FILE as MAP_ANN_FILE

CLASSES = (
    'car',
    'truck',
    'construction_vehicle',
    'bus',
    'trailer',
    'barrier',
    'motorcycle',
    'bicycle',
    'pedestrian',
    'traffic_cone',
)
_NEEDED = (
    'token',
    'scene_token',
    'frame_idx',
    'timestamp',
    'can_bus',
    'cams',
    'fut_valid_flag',
    'map_location',
)


@DATASETS.register_module(name=['VADNuScenesDataset', 'VADCustomNuScenesDataset'])
class VADNuScenesDataset(BaseDataset):
    """Frames of VAD's info files (ours or the published ones).

    In training an item is a queue of frames: the current one and ``queue_length - 1`` drawn from the
    ``queue_length`` before it, in their order. A frame that belongs to another scene is replaced by the
    one after it. CAN bus vectors are made relative to the frame before. Items without any agent or
    without any map element in range are replaced by random ones (``filter_empty_gt``). In test mode an
    item is one frame, in order, with the absolute CAN bus vector.

    Item: ``inputs['img']`` (T, 6, 3, H, W) float32 and ``data_samples``, a Det3DDataSample (see
    :class:`~vadslim.vad.datasets.transforms.VADPackInputs`) of the current frame, with ``history_metas``:
    the meta information of the T - 1 frames before it, oldest first.

    Args:
        ann_file: info file; relative ones are looked for in ``data_root``.
        data_root: the nuScenes folder.
        pipeline: transforms; the last one packs.
        queue_length: frames per training item.
        pc_range: x1, y1, z1, x2, y2, z2 of the perception range, metres in the LiDAR frame; the map is
            cut to it.
        map_classes: map elements to load; labels count in (divider, ped_crossing, boundary).
        map_num_points: points per map element.
        use_valid_flag: see :func:`~vadslim.vad.datasets.infos.agents`.
        filter_empty_gt: in training, skip frames without agents or map elements.
        with_map: whether items have ``gt_map``. In test mode they do without where the map expansion is missing and
            ``map_ann_file`` is there.
        map_ann_file: where the map ground truth of an evaluation is kept (see
            :mod:`~vadslim.vad.datasets.map_truth`); relative ones lie in ``data_root``, as ``ann_file`` does.
        metainfo: ``classes`` (labels are positions in it); default: the ten classes of nuScenes in VAD's
            order. The data set adds what evaluation needs: ``data_root`` and the info file's ``version``.
        test_mode: see above.
        **kwargs: ``indices``, ``lazy_init``, ``serialize_data``, ``max_refetch`` of MMEngine's BaseDataset.
    """

    METAINFO = {'classes': CLASSES, 'map_classes': MAP_CLASSES, 'dataset': 'nuscenes'}

    def __init__(
        self,
        ann_file: str,
        data_root: str,
        pipeline: Sequence[dict | Callable],
        queue_length: int = 3,
        pc_range: Sequence[float] = (-15.0, -30.0, -2.0, 15.0, 30.0, 2.0),
        map_classes: Sequence[str] = MAP_CLASSES,
        map_num_points: int = 20,
        use_valid_flag: bool = False,
        filter_empty_gt: bool = True,
        with_map: bool = True,
        map_ann_file: str = MAP_ANN_FILE,
        metainfo: dict | None = None,
        test_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        if queue_length < 1:
            raise ValueError(f'queue_length: {queue_length}, at least 1 is needed')
        if len(pc_range) != 6:
            raise ValueError(f'pc_range: {len(pc_range)} numbers, 6 are needed (x1, y1, z1, x2, y2, z2)')
        self.queue_length = queue_length
        self.map_num_points = map_num_points
        self.use_valid_flag = use_valid_flag
        self.filter_empty_gt = filter_empty_gt
        self.with_map = with_map
        self.map_ann_file = map_ann_file
        patch_size = (pc_range[4] - pc_range[1], pc_range[3] - pc_range[0])
        self.vector_map = VectorMap(data_root, patch_size, map_classes)
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            data_prefix={},
            pipeline=list(pipeline),
            metainfo=metainfo,
            test_mode=test_mode,
            **kwargs,
        )
        self._metainfo['data_root'] = str(data_root)  # for the metrics; given as metainfo it would be read as a file
        self._metainfo['map_truth'] = {
            'file': self.map_ann_file,
            'ann_file': self.ann_file,
            'data_root': self.data_root,
            'patch_size': patch_size,
            'classes': self.vector_map.map_classes,
        }

    def _join_prefix(self) -> None:
        self.ann_file, self.map_ann_file = self._in_root(self.ann_file), self._in_root(self.map_ann_file)

    def _in_root(self, name: str) -> str:
        """A relative file lies in the data root; a path that leads there from here (as in VAD's configs) is taken as it
        is.
        """
        root, file = Path(self.data_root), Path(name)
        return name if file.is_relative_to(root) or (file.exists() and not (root / file).exists()) else str(root / file)

    def load_data_list(self) -> list[dict]:
        """Frames scene by scene, scenes and frames in the order of time."""
        content = load_info(self.ann_file)
        if isinstance(content, list):
            content = {'infos': content}
        records = content.get('infos') if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise UserError(f'{self.ann_file}: not an info file of VAD (no list "infos")')
        if not records:
            raise UserError(f'{self.ann_file}: holds no frame; convert scenes of this split')
        missing = [key for key in _NEEDED if any(key not in record for record in records)]
        if missing:
            raise UserError(f'{self.ann_file}: not an info file of VAD (without {", ".join(missing)})')
        metadata = content.get('metadata') or {}
        self._metainfo |= {k: v for k, v in metadata.items() if k not in self._metainfo}
        if not (first := Path(self._images(records[0])[0])).is_file():
            raise UserError(f'{first}: no such image; data_root must be the folder of nuScenes')
        if self.with_map:
            try:
                check_maps(self.data_root, {record['map_location'] for record in records})
            except UserError as error:
                if not self.test_mode or not Path(self.map_ann_file).is_file():
                    raise
                self.with_map = False
                say(f'{error}; the map is evaluated by {self.map_ann_file}')
        starts: dict[str, int] = {}
        for record in records:
            scene, time = record['scene_token'], record['timestamp']
            starts[scene] = min(starts.get(scene, time), time)
        records.sort(key=lambda r: (starts[r['scene_token']], r['scene_token'], r['timestamp']))
        return [{k: v for k, v in record.items() if k != 'sweeps'} for record in records]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """What the map is cut to: x_min, y_min, x_max, y_max, metres in the LiDAR frame."""
        depth, width = self.vector_map.patch_size
        return (-width / 2, -depth / 2, width / 2, depth / 2)

    def scene_tokens(self) -> list[str]:
        """The scene of each item, for samplers that keep scenes whole."""
        return [self.get_data_info(i)['scene_token'] for i in range(len(self))]

    def prepare_data(self, idx: int) -> dict | None:
        """One item, or None if it has nothing to learn from."""
        info = self.get_data_info(idx)
        results = self._frame(info)
        if self.with_map:
            results['gt_map'] = self._map(info)
        current = self.pipeline(results)
        if self.test_mode:
            return current
        no_map = self.with_map and len(results['gt_map']) == 0
        if self.filter_empty_gt and (no_map or _num_agents(current) == 0):
            return None
        history = self._history(idx, info, current)
        return None if history is None else _as_queue([*history, current])

    def _history(self, idx: int, info: dict, current: dict) -> list[dict] | None:
        """The packed frames before ``idx``, oldest first; None if one of them shows neither agents nor
        map.
        """
        candidates = list(range(idx - self.queue_length, idx))
        random.shuffle(candidates)
        drawn = sorted(candidates[1:], reverse=True)
        frames: list[dict] = []
        earliest, frame = info['frame_idx'], current
        for i in drawn:
            previous = self.get_data_info(max(0, i))
            if previous['scene_token'] == info['scene_token'] and previous['frame_idx'] < earliest:
                earliest = previous['frame_idx']
                frame = self.pipeline(self._frame(previous))
                if self.filter_empty_gt and _num_agents(frame) == 0 and self._shows_no_map(previous):
                    return None
            frames.insert(0, frame)
        return frames

    def _frame(self, info: dict) -> dict:
        """What the pipeline gets."""
        results = {
            'img_path': self._images(info),
            'lidar2img': [infos.lidar2img(camera) for camera in info['cams'].values()],
            'can_bus': infos.can_bus(info),
            'scene_token': info['scene_token'],
            'sample_idx': info['token'],
            'frame_idx': info['frame_idx'],
            'timestamp': info['timestamp'],
            'fut_valid_flag': bool(info['fut_valid_flag']),
            'ego2global': infos.ego2global(info),
            'lidar2global': infos.lidar2global(info),
        }
        if 'gt_boxes' in info:  # the test set has none
            results |= infos.agents(info, self._metainfo['classes'], self.use_valid_flag)
            results['gt_ego'] = infos.ego(info)
        return results

    def _images(self, info: dict) -> list[str]:
        return [infos.resolve_path(camera['data_path'], self.data_root) for camera in info['cams'].values()]

    def _map(self, info: dict) -> InstanceData:
        lines, labels = self.vector_map.lines(info['map_location'], infos.lidar2global(info))
        return map_targets(lines, labels, self.vector_map.patch_size, self.map_num_points)

    def _shows_no_map(self, info: dict) -> bool:
        return not self.with_map or len(self._map(info)) == 0


def _num_agents(item: dict) -> int:
    return len(item['data_samples'].gt_instances_3d)


def _as_queue(frames: list[dict]) -> dict:
    """Packed frames (oldest first) -> one item: images stacked, the last frame's ground truth, metas of
    all.
    """
    vectors = infos.relative_can_bus([frame['data_samples'].can_bus for frame in frames])
    metas = []
    for i, (frame, vector) in enumerate(zip(frames, vectors)):
        meta = copy.deepcopy(frame['data_samples'].metainfo)
        metas.append({**meta, 'can_bus': vector, 'prev_bev_exists': i > 0})
    sample = frames[-1]['data_samples']
    sample.set_metainfo({**metas[-1], 'history_metas': metas[:-1]})
    return {
        'inputs': {'img': torch.cat([frame['inputs']['img'] for frame in frames])},
        'data_samples': sample,
    }
