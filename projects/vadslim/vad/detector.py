"""The detector VAD: six cameras and the previous frame to objects, map vectors, their motion and a plan."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import MODELS, TASK_UTILS
from mmdet3d.structures import Det3DDataSample
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .head import VADHead
from .losses import VADCriterion

# Keys of the original's head of which only one value was ever published; the network is built for that one.
_FIXED = {
    'with_box_refine': True,
    'as_two_stage': False,
    'map_transform_method': 'minmax',
    'map_gt_shift_pts_pattern': 'v2',
    'num_cls_fcs': 2,
}


class GridMask(nn.Module):
    """Blackens a grid of squares in all images of a batch, in training only.

    Args:
        ratio: Part of the grid's period that stays visible, in each direction.
        prob: How often the mask is applied.
    """

    def __init__(self, ratio: float = 0.5, prob: float = 0.7):
        super().__init__()
        self.ratio = ratio
        self.prob = prob

    def forward(self, img: Tensor) -> Tensor:
        """(..., H, W) -> (..., H, W)."""
        if not self.training or torch.rand(()) > self.prob:
            return img
        height, width = img.shape[-2:]
        period = int(torch.randint(2, height, ()))
        visible = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        start = torch.randint(period, (2,))
        rows = (torch.arange(height) + start[0]) % period < visible
        columns = (torch.arange(width) + start[1]) % period < visible
        return img * (rows[:, None] | columns).to(img)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is back in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@MODELS.register_module()
class VAD(BaseModel):
    """Vectorized Autonomous Driving (Jiang et al., ICCV 2023).

    In training the bird's-eye view of the previous frames is computed without gradients from a queue of images. In
    prediction frames come one by one and the last view is kept in ``prev_frame_info`` until the scene changes.

    Args:
        img_backbone: Config of the image backbone.
        img_neck: Config of the feature pyramid.
        pts_bbox_head: Config of :class:`VADHead`, with the configs of its losses and coders as in the original:
            ``loss_*``, ``bbox_coder``, ``map_bbox_coder`` and what :class:`VADCriterion` takes.
        use_grid_mask: Whether :class:`GridMask` is applied in training.
        video_test_mode: Whether prediction uses the previous frame.
        pretrained: ``dict(img=PATH)``, a local file with ImageNet weights of the backbone, e.g. torchvision's
            resnet50. Nothing is ever downloaded.
        train_cfg: ``pts`` holds the configs of the matchers; None for a network without losses.
        test_cfg: Accepted for the configs' sake.
        data_preprocessor: Config of what turns a batch of the data loader into the arguments of :meth:`forward`.
    """

    def __init__(
        self,
        img_backbone: dict,
        img_neck: dict,
        pts_bbox_head: dict,
        use_grid_mask: bool = False,
        video_test_mode: bool = False,
        pretrained: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        network, coders = split_head_config(pts_bbox_head)
        if pretrained is not None:
            img_backbone = {**img_backbone, 'init_cfg': local_weights(pretrained)}
        # The order is that of the state_dict of published checkpoints.
        self.pts_bbox_head = MODELS.build(network)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck)
        self.grid_mask = GridMask() if use_grid_mask else nn.Identity()
        self.bbox_coder, self.map_bbox_coder = (TASK_UTILS.build(cfg) for cfg in coders)
        self.criterion = None
        if train_cfg is not None:
            self.criterion = VADCriterion.from_head_cfg(train_cfg['pts'], **pts_bbox_head)
        self.video_test_mode = video_test_mode
        self.reset_history()

    def reset_history(self) -> None:
        """Forget the previous frame."""
        self.prev_frame_info: dict[str, Any] = {
            'prev_bev': None,
            'scene_token': None,
            'prev_pos': np.zeros(3),
            'prev_angle': 0.0,
        }

    def train(self, mode: bool = True) -> 'VAD':
        """Switch the mode; each run of training or evaluation starts without a previous frame."""
        self.reset_history()
        return super().train(mode)

    def forward(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[Det3DDataSample]:
        """Run the network.

        Args:
            inputs: ``img``: normalised, padded images, (B, T, cameras, 3, H, W) with the current frame last, or one
                frame, (B, cameras, 3, H, W).
            data_samples: One per sample. ``metainfo``: ``lidar2img``, ``img_shape``, ``can_bus`` (relative to the
                frame before with ``loss``, absolute otherwise), ``scene_token``; with T > 1 ``history_metas``, T - 1
                dicts of the same. Targets as :class:`VADCriterion` takes them.
            mode: ``loss``: losses. ``predict``: the samples with ``pred_instances_3d``, ``pred_map`` and ``pred_ego``.
                ``tensor``: outputs of the head, see :meth:`VADHead.forward`.

        Both ``predict`` and ``tensor`` take frames in their order and keep the view for the next one.
        """
        img = inputs['img']
        if img.dim() == 5:
            img = img[:, None]
        if mode == 'loss':
            return self.loss(img, data_samples)
        if mode == 'tensor':
            return self.next_frame(img, data_samples)
        if mode == 'predict':
            return self.predict(img, data_samples)
        raise ValueError(f'mode={mode!r}: allowed are loss, predict, tensor')

    def loss(self, img: Tensor, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Losses of the last of T frames, img (B, T, cameras, 3, H, W)."""
        if self.criterion is None:
            raise RuntimeError('mode="loss" needs a model that is built with train_cfg')
        outputs = self.queue_outputs(img, data_samples)
        head = self.pts_bbox_head
        return self.criterion(outputs, data_samples, head.code_weights, head.map_code_weights)

    def queue_outputs(self, img: Tensor, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Outputs of the head for the last of T frames, img (B, T, cameras, 3, H, W); can_bus is relative."""
        prev_bev = None
        if img.shape[1] > 1:
            histories = [sample.metainfo['history_metas'] for sample in data_samples]
            prev_bev = self.obtain_history_bev(img[:, :-1], histories)
        features = [level[:, 0] for level in self.extract_feat(img[:, -1:])]
        return self.run_head(features, [sample.metainfo for sample in data_samples], data_samples, prev_bev)

    def predict(self, img: Tensor, data_samples: list[Det3DDataSample]) -> list[Det3DDataSample]:
        """Decoded predictions of the next frame, img (B, 1, cameras, 3, H, W)."""
        outputs = self.next_frame(img, data_samples)
        agents, vectors = self.bbox_coder.decode(outputs), self.map_bbox_coder.decode(outputs)
        for sample, agent, vector, plan in zip(data_samples, agents, vectors, outputs['ego_fut_preds']):
            sample.pred_instances_3d = agent
            sample.pred_map = vector
            sample.pred_ego = BaseDataElement(fut_preds=plan)
        return data_samples

    def next_frame(self, img: Tensor, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Outputs of the head for the next frame, img (B, 1, cameras, 3, H, W); can_bus is absolute."""
        if img.shape[1] != 1:
            raise ValueError(f'prediction takes frames one by one, but {img.shape[1]} were given')
        metas = [dict(sample.metainfo) for sample in data_samples]
        info = self.prev_frame_info
        prev_bev = None
        if self.video_test_mode:
            if len(metas) != 1:
                raise ValueError(f'video_test_mode needs a batch size of 1, not {len(metas)}')
            if metas[0]['scene_token'] == info['scene_token']:
                prev_bev = info['prev_bev']
        for meta in metas:
            absolute = np.asarray(meta['can_bus'], dtype=np.float64)
            meta['can_bus'] = relative = absolute.copy()
            if prev_bev is None:
                relative[:3] = relative[-1] = 0
            else:
                relative[:3] -= info['prev_pos']
                relative[-1] -= info['prev_angle']
        features = [level[:, 0] for level in self.extract_feat(img)]
        outputs = self.run_head(features, metas, data_samples, prev_bev)
        if self.video_test_mode:
            self.prev_frame_info = {
                'prev_bev': outputs['bev_embed'].detach().transpose(0, 1),
                'scene_token': metas[0]['scene_token'],
                'prev_pos': absolute[:3].copy(),
                'prev_angle': float(absolute[-1]),
            }
        return outputs

    def run_head(
        self, features: list[Tensor], metas: list[dict], data_samples: list[Det3DDataSample], prev_bev: Tensor | None
    ) -> dict[str, Tensor]:
        """The head, with the car's history and status if its config asks for them."""
        ego = {}
        if self.pts_bbox_head.ego_his_encoder is not None:
            ego['ego_his_trajs'] = torch.stack([sample.gt_ego.his_trajs for sample in data_samples])
        if self.pts_bbox_head.ego_lcf_feat_idx is not None:
            ego['ego_lcf_feat'] = torch.stack([sample.gt_ego.lcf_feat for sample in data_samples])
        ego = {name: value.to(features[0]) for name, value in ego.items()}
        return self.pts_bbox_head(features, metas, prev_bev, **ego)

    def extract_feat(self, img: Tensor) -> list[Tensor]:
        """Image features, all frames and cameras at once.

        Args:
            img: (B, T, cameras, 3, H, W).

        Returns:
            One per level, (B, T, cameras, C, h, w).
        """
        images = self.grid_mask(img.flatten(0, 2))
        if not images.is_cuda:  # a sixth faster there
            images = images.contiguous(memory_format=torch.channels_last)
        features = self.img_neck(self.img_backbone(images))
        return [level.unflatten(0, img.shape[:3]) for level in features]

    def obtain_history_bev(self, img: Tensor, histories: Sequence[Sequence[dict]]) -> Tensor:
        """The view of the last of the previous frames, without dropout and gradients.

        Args:
            img: (B, T, cameras, 3, H, W).
            histories: Per sample T metas, oldest first.

        Returns:
            (B, bev_h * bev_w, D).
        """
        with evaluating(self):
            features = self.extract_feat(img)
            prev_bev = None
            for t, metas in enumerate(zip(*histories)):
                prev_bev = self.pts_bbox_head.encode([level[:, t] for level in features], metas, prev_bev)
        return prev_bev


def split_head_config(cfg: dict) -> tuple[dict, tuple[dict, dict]]:
    """The network's part of the head's config, and the configs of the two coders.

    Raises:
        ValueError: A key is unknown, or has a value that the network is not built for.
    """
    cfg = dict(cfg)
    coders = (cfg['bbox_coder'], cfg['map_bbox_coder'])
    network = set(inspect.signature(VADHead).parameters)
    criterion = set(inspect.signature(VADCriterion).parameters)
    known = network | criterion | {'type', 'bbox_coder', 'map_bbox_coder', 'loss_iou', *_FIXED}
    if unknown := sorted(set(cfg) - known):
        raise ValueError(f'pts_bbox_head has unknown keys {unknown}; allowed are {sorted(known)}')
    for key, value in _FIXED.items():
        if cfg.get(key, value) != value:
            raise ValueError(f'pts_bbox_head.{key}={cfg[key]!r}: only {value!r} is supported')
    if cfg.get('loss_iou', {}).get('loss_weight', 0.0) != 0.0:
        raise ValueError('pts_bbox_head.loss_iou: only loss_weight=0 is supported; 3D boxes have no such loss')
    cfg.setdefault('pc_range', coders[0]['pc_range'])
    return {key: value for key, value in cfg.items() if key in network | {'type'}}, coders


def local_weights(pretrained: dict) -> dict:
    """``init_cfg`` for ``pretrained=dict(img=PATH)``.

    Raises:
        ValueError: It is not a local file's path.
    """
    path = pretrained.get('img')
    if set(pretrained) != {'img'} or not isinstance(path, str) or '://' in path:
        raise ValueError(
            f'pretrained={pretrained!r}: only dict(img=PATH) with the path of a local file is allowed; '
            'nothing is downloaded'
        )
    return {'type': 'Pretrained', 'checkpoint': path}
