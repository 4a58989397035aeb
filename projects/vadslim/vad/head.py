"""The head of VAD, a network without losses: image features to objects, map vectors, motion and the plan."""

import copy

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, ModuleList, bias_init_with_prob, xavier_init
from torch import Tensor, nn

from .decoders import LaneNet, at_least_single
from .planning import attend_all, attend_map, nearest_point


def branch(in_dims: int, hidden: int, out_dims: int, num_fcs: int, norm: bool, clones: int) -> ModuleList:
    """``clones`` perceptrons of ``num_fcs`` hidden layers, with or without LayerNorm, that begin with equal weights."""
    layers: list[nn.Module] = []
    for i in range(num_fcs):
        layers.append(nn.Linear(hidden if i else in_dims, hidden))
        if norm:
            layers.append(nn.LayerNorm(hidden))
        layers.append(nn.ReLU(inplace=norm))
    net = nn.Sequential(*layers, nn.Linear(hidden, out_dims))
    return ModuleList(copy.deepcopy(net) for _ in range(clones))


@MODELS.register_module()
class VADHead(BaseModule):
    """Perception, prediction and planning by queries.

    Positions inside the network are in [0, 1] over ``pc_range``; boxes and map points leave it in metres or [0, 1]
    as said in :meth:`forward`. D below is the width of the stream at hand.

    Args:
        transformer: Config of the perception transformer.
        positional_encoding: Config of the encoding of the cells of the bird's-eye view.
        pc_range: [x_min, y_min, z_min, x_max, y_max, z_max] in metres.
        in_channels: Width that all streams are built with; the forward pass reads each stream's own.
        num_query: Object queries.
        num_classes: Object classes.
        num_reg_fcs: Hidden layers of the branches.
        code_size: Numbers per box.
        code_weights: Weights of these in the loss; a constant of the checkpoint.
        bev_h, bev_w: Rows and columns of the bird's-eye view.
        fut_ts, fut_mode: Steps and modes of the agents' motion.
        map_num_vec, map_num_pts_per_vec: Map vectors and points of each.
        map_num_classes: Classes of map vectors.
        map_code_size, map_code_weights: As of the boxes.
        map_query_embed_type: ``instance_pts`` (a sum of a vector's and a point's embedding) or ``all_pts``.
        motion_decoder, motion_map_decoder, ego_agent_decoder, ego_map_decoder: Configs of decoders.
        use_pe: Whether motion and planning know positions.
        motion_det_score: Objects below this score are not seen by other agents, or None.
        map_thresh, dis_thresh, pe_normalization: See :func:`~vadslim.vad.planning.attend_map`.
        query_thresh, query_use_fix_pad: See :func:`~vadslim.vad.planning.attend_all`.
        ego_his_encoder: If not None, the car's query is made of its history instead of learned.
        ego_lcf_feat_idx: Entries of the car's status that the plan is given, or None.
        ego_fut_mode: Number of commands (right, left, straight).
    """

    def __init__(
        self,
        transformer: dict,
        positional_encoding: dict,
        pc_range: list[float],
        in_channels: int,
        motion_decoder: dict,
        motion_map_decoder: dict,
        ego_agent_decoder: dict,
        ego_map_decoder: dict,
        num_query: int = 300,
        num_classes: int = 10,
        num_reg_fcs: int = 2,
        code_size: int = 10,
        code_weights: tuple[float, ...] = (1.0,) * 8 + (0.2, 0.2),
        bev_h: int = 100,
        bev_w: int = 100,
        fut_ts: int = 6,
        fut_mode: int = 6,
        map_num_vec: int = 100,
        map_num_pts_per_vec: int = 20,
        map_num_classes: int = 3,
        map_code_size: int = 2,
        map_code_weights: tuple[float, ...] = (1.0,) * 4,
        map_query_embed_type: str = 'instance_pts',
        use_pe: bool = True,
        motion_det_score: float | None = None,
        map_thresh: float = 0.5,
        dis_thresh: float = 0.2,
        pe_normalization: bool = True,
        query_thresh: float = 0.0,
        query_use_fix_pad: bool = False,
        ego_his_encoder: dict | None = None,
        ego_lcf_feat_idx: list[int] | None = None,
        ego_fut_mode: int = 3,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if map_query_embed_type not in ('instance_pts', 'all_pts'):
            raise ValueError(f'map_query_embed_type={map_query_embed_type!r}: allowed are instance_pts, all_pts')
        self.pc_range = list(pc_range)
        self.bev_h, self.bev_w = bev_h, bev_w
        self.fut_ts, self.fut_mode, self.ego_fut_mode = fut_ts, fut_mode, ego_fut_mode
        self.motion_det_score = motion_det_score
        self.map_thresh, self.dis_thresh = map_thresh, dis_thresh
        self.pe_normalization = pe_normalization
        self.query_thresh, self.query_use_fix_pad = query_thresh, query_use_fix_pad
        self.ego_lcf_feat_idx = ego_lcf_feat_idx
        d = in_channels
        self.code_weights = nn.Parameter(torch.tensor(code_weights), requires_grad=False)
        self.map_code_weights = nn.Parameter(torch.tensor(map_code_weights), requires_grad=False)
        # The order of what follows is the order of the state_dict of published checkpoints.
        self.positional_encoding = MODELS.build(positional_encoding)
        self.transformer = MODELS.build(transformer)
        depth = len(self.transformer.decoder.layers)
        map_depth = len(self.transformer.map_decoder.layers)
        self.cls_branches = branch(d, d, num_classes, num_reg_fcs, True, depth)
        self.reg_branches = branch(d, d, code_size, num_reg_fcs, False, depth)
        self.traj_branches = branch(2 * d, 2 * d, fut_ts * 2, num_reg_fcs, False, 1)
        self.traj_cls_branches = branch(2 * d, 2 * d, 1, num_reg_fcs, True, 1)
        self.map_cls_branches = branch(d, d, map_num_classes, num_reg_fcs, True, map_depth)
        self.map_reg_branches = branch(d, d, map_code_size, num_reg_fcs, False, map_depth)
        self.bev_embedding = nn.Embedding(bev_h * bev_w, d)
        self.query_embedding = nn.Embedding(num_query, 2 * d)
        self.map_query_embedding = None
        if map_query_embed_type == 'all_pts':
            self.map_query_embedding = nn.Embedding(map_num_vec * map_num_pts_per_vec, 2 * d)
        else:
            self.map_instance_embedding = nn.Embedding(map_num_vec, 2 * d)
            self.map_pts_embedding = nn.Embedding(map_num_pts_per_vec, 2 * d)
        self.map_num_pts_per_vec = map_num_pts_per_vec
        self.motion_decoder = MODELS.build(motion_decoder)
        self.motion_mode_query = nn.Embedding(fut_mode, d)
        self.pos_mlp_sa = nn.Linear(2, d) if use_pe else None
        self.lane_encoder = LaneNet(d, d // 2, 3)
        self.motion_map_decoder = MODELS.build(motion_map_decoder)
        self.pos_mlp = nn.Linear(2, d) if use_pe else None
        self.ego_his_encoder = self.ego_query = None
        if ego_his_encoder is not None:
            self.ego_his_encoder = LaneNet(2, d // 2, 3)
        else:
            self.ego_query = nn.Embedding(1, d)
        self.ego_agent_decoder = MODELS.build(ego_agent_decoder)
        self.ego_agent_pos_mlp = nn.Linear(2, d) if use_pe else None
        self.ego_map_decoder = MODELS.build(ego_map_decoder)
        self.ego_map_pos_mlp = nn.Linear(2, d) if use_pe else None
        plan_dims = 2 * d + len(ego_lcf_feat_idx or ())
        self.ego_fut_decoder = branch(plan_dims, plan_dims, ego_fut_mode * fut_ts * 2, num_reg_fcs, False, 1)[0]
        self.agent_fus_mlp = nn.Sequential(nn.Linear(fut_mode * 2 * d, d), nn.LayerNorm(d), nn.ReLU(), nn.Linear(d, d))

    def init_weights(self) -> None:
        self.transformer.init_weights()
        for branches in (self.cls_branches, self.map_cls_branches, self.traj_cls_branches):
            for module in branches:
                nn.init.constant_(module[-1].bias, bias_init_with_prob(0.01))
        for module in (
            self.motion_decoder,
            self.motion_map_decoder,
            self.lane_encoder,
            self.ego_his_encoder,
            self.ego_agent_decoder,
            self.ego_map_decoder,
        ):
            for parameter in module.parameters() if module is not None else ():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        nn.init.orthogonal_(self.motion_mode_query.weight)
        for module in (self.pos_mlp_sa, self.pos_mlp):
            if module is not None:
                xavier_init(module, distribution='uniform')

    def encode(self, features: list[Tensor], metas: list[dict], prev_bev: Tensor | None = None) -> Tensor:
        """The bird's-eye view of a frame.

        Args:
            features: One per level, (B, cameras, C, h, w).
            metas: One per sample; ``can_bus`` relative to the previous frame.
            prev_bev: View of the previous frame, (B, bev_h * bev_w, D).

        Returns:
            (B, bev_h * bev_w, D).
        """
        hw = (self.bev_h, self.bev_w)
        pos = self.positional_encoding(features[0].new_zeros(len(metas), *hw))
        x_min, y_min, _, x_max, y_max, _ = self.pc_range
        cell = ((y_max - y_min) / self.bev_h, (x_max - x_min) / self.bev_w)
        pos = pos.flatten(2).transpose(1, 2)
        return self.transformer.encode(features, self.bev_embedding.weight, pos, hw, cell, metas, prev_bev)

    def forward(
        self,
        features: list[Tensor],
        metas: list[dict],
        prev_bev: Tensor | None = None,
        ego_his_trajs: Tensor | None = None,
        ego_lcf_feat: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One frame.

        Args:
            features: One per level, (B, cameras, C, h, w).
            metas: One per sample; ``can_bus`` relative to the previous frame.
            prev_bev: View of the previous frame, (B, bev_h * bev_w, D).
            ego_his_trajs: The car's past steps in metres, (B, T, 2); only with ``ego_his_encoder``.
            ego_lcf_feat: The car's status, (B, 9); only with ``ego_lcf_feat_idx``.

        Returns:
            With L layers, A objects, V vectors of N points, M modes, T steps:

            - bev_embed: (bev_h * bev_w, B, D)
            - all_cls_scores: logits, (L, B, A, classes)
            - all_bbox_preds: cx, cy, w, l, cz, h, sin, cos, vx, vy with centres in metres and log sizes, (L, B, A, 10)
            - all_traj_preds: steps in metres, (L, B, A, M, T * 2), equal for all layers
            - all_traj_cls_scores: logits, (L, B, A, M), equal for all layers
            - map_all_cls_scores: logits, (L, B, V, classes)
            - map_all_bbox_preds: cx, cy, w, h in [0, 1], (L, B, V, 4)
            - map_all_pts_preds: in [0, 1], (L, B, V, N, 2)
            - ego_fut_preds: steps in metres for each command, (B, commands, T, 2)
        """
        bev = self.encode(features, metas, prev_bev)
        objects, lines = self.transformer.decode(
            bev,
            self.query_embedding.weight,
            self.map_embedding(),
            self.reg_branches,
            self.map_reg_branches,
            (self.bev_h, self.bev_w),
        )
        depth = len(objects.states)
        # Scores are compared with thresholds after a sigmoid, which in half precision becomes zero soon.
        cls_scores = at_least_single(torch.stack([m(x) for m, x in zip(self.cls_branches, objects.states)]))
        per_vector = (-1, self.map_num_pts_per_vec)
        map_states = lines.states.unflatten(2, per_vector)  # L, B, V, N, D
        map_points = lines.centers.unflatten(2, per_vector)
        map_scores = at_least_single(torch.stack([m(x.mean(2)) for m, x in zip(self.map_cls_branches, map_states)]))

        agent_pos = objects.centers[-1][..., :2].detach()
        vectors = self.lane_encoder(map_states[-1])
        vector_pos = nearest_point(map_points[-1].detach())
        motion = self.predict_motion(objects.states[-1], cls_scores[-1], agent_pos, vectors, vector_pos, map_scores[-1])
        plan = self.plan(
            motion, agent_pos, cls_scores[-1], vectors, vector_pos, map_scores[-1], ego_his_trajs, ego_lcf_feat
        )
        return {
            'bev_embed': bev.transpose(0, 1),
            'all_cls_scores': cls_scores,
            'all_bbox_preds': self.boxes(objects.regression, objects.centers),
            'all_traj_preds': self.traj_branches[0](motion).repeat(depth, 1, 1, 1, 1),
            'all_traj_cls_scores': self.traj_cls_branches[0](motion).squeeze(-1).repeat(depth, 1, 1, 1),
            'map_all_cls_scores': map_scores,
            'map_all_bbox_preds': bounding_boxes(map_points),
            'map_all_pts_preds': map_points,
            'ego_fut_preds': plan,
        }

    def map_embedding(self) -> Tensor:
        """Position and content of the map point queries side by side, (V * N, 2 D)."""
        if self.map_query_embedding is not None:
            return self.map_query_embedding.weight
        points, instances = self.map_pts_embedding.weight, self.map_instance_embedding.weight
        return (points[None] + instances[:, None]).flatten(0, 1)

    def boxes(self, regression: Tensor, centers: Tensor) -> Tensor:
        """Regression with its centre in metres, (..., 10) and (..., 3) in [0, 1] -> (..., 10)."""
        low = centers.new_tensor(self.pc_range[:3])
        cx, cy, cz = (centers * (centers.new_tensor(self.pc_range[3:]) - low) + low).split(1, -1)
        return torch.cat([cx, cy, regression[..., 2:4], cz, regression[..., 5:]], -1)

    def predict_motion(
        self, states: Tensor, scores: Tensor, pos: Tensor, vectors: Tensor, vector_pos: Tensor, vector_scores: Tensor
    ) -> Tensor:
        """Modes of motion of each agent, from the other agents and the map near it.

        Args:
            states: (B, A, D).
            scores: Logits, (B, A, classes).
            pos: (B, A, 2), in [0, 1].
            vectors: (B, V, D).
            vector_pos: (B, V, 2), in [0, 1].
            vector_scores: Logits, (B, V, classes).

        Returns:
            What a mode has from the agents beside what it has from the map, (B, A, M, 2 D).
        """
        modes = self.motion_mode_query.weight
        num_modes = len(modes)
        query = (states[:, :, None] + modes).flatten(1, 2)  # B, A * M, D
        query_pos = blocked = None
        if self.pos_mlp_sa is not None:
            query_pos = self.pos_mlp_sa(pos).repeat_interleave(num_modes, 1)
        if self.motion_det_score is not None:
            blocked = (scores.amax(-1) < self.motion_det_score).repeat_interleave(num_modes, 1)
        query = self.motion_decoder(query, query, query_pos, query_pos, key_padding_mask=blocked)
        on_map = attend_map(
            self.motion_map_decoder,
            self.pos_mlp,
            query,
            pos.repeat_interleave(num_modes, 1),
            vectors,
            vector_pos,
            vector_scores.sigmoid().amax(-1) > self.map_thresh,
            self.dis_thresh,
            self.pe_normalization,
        )
        return torch.cat([query, on_map], -1).unflatten(1, (-1, num_modes))

    def plan(
        self,
        motion: Tensor,
        agent_pos: Tensor,
        scores: Tensor,
        vectors: Tensor,
        vector_pos: Tensor,
        vector_scores: Tensor,
        ego_his_trajs: Tensor | None = None,
        ego_lcf_feat: Tensor | None = None,
    ) -> Tensor:
        """Steps of the car for each command, from agents (first) and map (then).

        Args:
            motion: (B, A, M, 2 D).
            agent_pos: (B, A, 2), in [0, 1].
            scores: Logits, (B, A, classes).
            vectors: (B, V, D).
            vector_pos: (B, V, 2), in [0, 1].
            vector_scores: Logits, (B, V, classes).
            ego_his_trajs: (B, T, 2).
            ego_lcf_feat: (B, 9).

        Returns:
            (B, commands, steps, 2), metres.
        """
        if self.ego_his_encoder is not None:
            ego = self.ego_his_encoder(ego_his_trajs[:, None])
        else:
            ego = self.ego_query.weight.expand(len(motion), -1, -1)
        agents = self.agent_fus_mlp(motion.flatten(2))
        select = (self.query_thresh, self.query_use_fix_pad)
        with_agents = attend_all(
            self.ego_agent_decoder, self.ego_agent_pos_mlp, ego, agents, agent_pos, scores, *select
        )
        with_map = attend_all(
            self.ego_map_decoder, self.ego_map_pos_mlp, with_agents, vectors, vector_pos, vector_scores, *select
        )
        feats = [with_agents if self.ego_his_encoder is None else ego, with_map]
        if self.ego_lcf_feat_idx is not None:
            feats.append(ego_lcf_feat[:, None, self.ego_lcf_feat_idx])
        return self.ego_fut_decoder(torch.cat(feats, -1)).view(len(motion), self.ego_fut_mode, self.fut_ts, 2)


def bounding_boxes(points: Tensor) -> Tensor:
    """Boxes around point sets, (..., N, 2) -> (..., 4), cx, cy, w, h."""
    low, high = points.amin(-2), points.amax(-2)
    return torch.cat([(low + high) / 2, high - low], -1)
