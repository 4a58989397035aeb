"""Deterministic inputs for the parity cases.

case 'tiny'  : VAD_tiny_stage_2.py as is; images 6 x 3 x 384 x 640 (900x1600 scaled 0.4 -> 360x640, padded to 384x640)
case 'small' : config overrides bev_h=bev_w=20 (head, positional encoding row/col), transformer.rotate_center=[10,10];
               images 6 x 3 x 96 x 160 (scaled 0.1 -> 90x160, padded to 96x160)
case 'base_small' : VAD_base_stage_2.py with the same overrides as 'small' (4 FPN levels, 6 layers)

All arrays are numpy; geometry is float64, network inputs float32, labels int64.
Lidar frame as in nuScenes: x right, y forward, z up.
Camera order: FRONT, FRONT_RIGHT, FRONT_LEFT, BACK, BACK_LEFT, BACK_RIGHT.
"""

import math
import zlib

import numpy as np

CASES = {
    'tiny': dict(scale=0.4, valid_hw=(360, 640), hw=(384, 640), bev=(100, 100)),
    'small': dict(scale=0.1, valid_hw=(90, 160), hw=(96, 160), bev=(20, 20)),
    'base_small': dict(scale=0.1, valid_hw=(90, 160), hw=(96, 160), bev=(20, 20)),
}
CAM_YAW = [0.0, -55.0, 55.0, 180.0, 110.0, -110.0]  # degrees, counter-clockwise from the forward (y) axis
CAM_F = [1266.0, 1260.0, 1272.0, 809.0, 1256.0, 1259.0]
CAM_C = [(816.0, 491.0), (807.0, 495.0), (826.0, 479.0), (829.0, 481.0), (792.0, 492.0), (795.0, 488.0)]
CAM_T = [
    (0.02, 0.75, -0.33),
    (0.45, 0.62, -0.35),
    (-0.48, 0.60, -0.34),
    (-0.01, -0.95, -0.30),
    (-0.49, 0.25, -0.32),
    (0.47, 0.27, -0.33),
]
PC_RANGE = [-15.0, -30.0, -2.0, 15.0, 30.0, 2.0]
SCENE = 'scene-parity-0'


def rng(tag):
    return np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode())))


def lidar2img(case):
    """list of 6 (4,4) float64 matrices: pixel (scaled image) <- lidar."""
    s = CASES[case]['scale']
    out = []
    for yaw, f, (cx, cy), t in zip(CAM_YAW, CAM_F, CAM_C, CAM_T):
        a = math.radians(yaw)
        fwd = np.array([-math.sin(a), math.cos(a), 0.0])  # optical axis in lidar frame
        right = np.array([math.cos(a), math.sin(a), 0.0])
        down = np.array([0.0, 0.0, -1.0])
        R = np.stack([right, down, fwd])  # lidar -> cam rotation
        T = np.eye(4)
        T[:3, :3] = R
        T[:3, 3] = -R @ np.array(t)
        K = np.eye(4)
        K[0, 0] = K[1, 1] = f
        K[0, 2], K[1, 2] = cx, cy
        S = np.eye(4)
        S[0, 0] = S[1, 1] = s
        out.append(S @ K @ T)
    return out


def images(case, frame):
    """(6, 3, H, W) float32, normalized image values (zero in the padded bottom rows)."""
    H, W = CASES[case]['hw']
    vh, _ = CASES[case]['valid_hw']
    g = rng(f'{case}/img/{frame}')
    y = np.arange(H)[:, None] / H
    x = np.arange(W)[None, :] / W
    out = np.zeros((6, 3, H, W))
    for c in range(6):
        for k in range(3):
            fx, fy = 1 + (3 * c + 5 * k) % 7, 1 + (2 * c + 3 * k) % 5
            ph = 0.7 * c + 1.3 * k + 0.31 * frame
            out[c, k] = 0.8 * np.sin(2 * math.pi * (fx * x + fy * y) + ph) + 0.3 * (x - y)
    out += 0.5 * g.standard_normal(out.shape)
    out[:, :, vh:, :] = 0.0
    return out.astype(np.float32)


# ego pose per frame: x, y, z (m), yaw (deg) in the global frame
POSES = [(600.00, 1600.00, 0.0, 40.0), (601.35, 1601.20, 0.01, 43.7), (602.55, 1602.75, 0.02, 48.3)]


def can_bus(frame):
    """(18,) float64, ABSOLUTE pose as delivered by the dataset (before any delta)."""
    px, py, pz, yaw = POSES[frame]
    a = math.radians(yaw)
    v = np.zeros(18)
    v[0:3] = px, py, pz
    v[3:7] = math.cos(a / 2), 0.0, 0.0, math.sin(a / 2)
    v[7:10] = 0.31 + 0.05 * frame, -0.12, 9.79
    v[10:13] = 0.004, -0.003, 0.065 + 0.01 * frame
    v[13:16] = 3.61 + 0.2 * frame, 0.02, 0.0
    v[16] = a
    v[17] = yaw
    return v


def img_meta(case, frame):
    """dict of plain python/numpy objects; the caller adds box_type_3d and so on."""
    H, W = CASES[case]['hw']
    vh, vw = CASES[case]['valid_hw']
    return dict(
        lidar2img=lidar2img(case),
        can_bus=can_bus(frame),
        scene_token=SCENE,
        sample_idx=f'sample-{frame}',
        frame_idx=frame,
        prev_bev_exists=frame > 0,
        prev_bev=frame > 0,
        ori_shape=[(vh, vw, 3)] * 6,
        img_shape=[(H, W, 3)] * 6,
        pad_shape=[(H, W, 3)] * 6,
        scale_factor=1.0,
    )


def train_metas(case, frames=(0, 1, 2)):
    """{i: meta} for a training queue: can_bus is made RELATIVE exactly as the dataset's union2one does
    (first frame zeros; then difference to the previous frame, for entries [:3] and [-1] only)."""
    metas, pp, pa = {}, None, None
    for i, f in enumerate(frames):
        m = img_meta(case, f)
        cb = m['can_bus']
        pos, ang = cb[:3].copy(), cb[-1].copy()
        if i == 0:
            m['prev_bev'] = False
            cb[:3] = 0
            cb[-1] = 0
        else:
            m['prev_bev'] = True
            cb[:3] -= pp
            cb[-1] -= pa
        pp, pa = pos, ang
        metas[i] = m
    return metas


def ego(frame=2):
    """ego arrays in the shapes the collated training batch has (bs=1)."""
    t = np.arange(6)
    fut = np.stack([0.10 + 0.03 * t + 0.02 * frame, 1.80 - 0.05 * t], -1)  # per-step offsets (m / 0.5 s)
    his = np.array([[-0.12, 1.70], [0.04, 1.76]])
    lcf = np.array([0.05, 3.61, 0.02, 0.31, 0.065, 4.084, 1.85, 3.61, 0.03])
    cmd = np.zeros(3)
    cmd[2] = 1.0  # right / left / straight -> straight
    masks = np.ones(6)
    f32 = np.float32
    return dict(
        ego_his_trajs=his[None, None].astype(f32),  # (1, 1, 2, 2)
        ego_fut_trajs=fut[None, None].astype(f32),  # (1, 1, 6, 2)
        ego_fut_masks=masks[None, None, None].astype(f32),  # (1, 1, 1, 6)
        ego_fut_cmd=cmd[None, None, None].astype(f32),  # (1, 1, 1, 3)
        ego_lcf_feat=lcf[None, None, None].astype(f32),
    )  # (1, 1, 1, 9)


# agents: x, y, z_center, w, l, h, yaw, vx, vy, label, lcf type id (27th attr), n valid future steps
AGENTS = [
    (3.2, 8.5, -0.9, 1.95, 4.60, 1.65, -1.50, 0.3, 4.1, 0, 17, 6),
    (-3.6, 15.2, -0.8, 1.90, 4.40, 1.60, 1.62, -0.2, -5.0, 0, 17, 6),
    (6.4, -12.0, -0.4, 2.60, 8.20, 3.10, -1.55, 0.0, 0.0, 1, 23, 6),
    (-8.3, 4.4, -0.9, 0.70, 0.75, 1.75, 0.40, 0.9, 0.5, 8, 2, 6),
    (9.1, 21.7, -0.9, 0.68, 0.72, 1.70, -2.60, -0.8, 0.3, 8, 2, 4),
    (-11.0, -20.5, -0.5, 2.90, 11.0, 3.40, 3.05, 0.0, 0.2, 3, 16, 3),
    (1.2, 24.9, -0.9, 0.80, 2.10, 1.40, -1.40, 0.1, 3.0, 6, 21, 6),
    (12.5, 2.0, -1.2, 2.40, 0.60, 1.00, 0.05, 0.0, 0.0, 5, 9, 0),
    (-2.1, 6.0, -1.1, 0.40, 0.40, 0.80, 0.00, 0.0, 0.0, 9, 12, 6),
]


def agents():
    """gt_boxes (N,9) float32 = x,y,z_BOTTOM,w,l,h,yaw,vx,vy in the mmdet3d 0.17 convention used by VAD
    (yaw clockwise-positive as in mmdet3d<1.0; the head only reads the raw numbers, gravity centre z = z_bottom + h/2),
    labels (N,) int64, attr (N,34) float32:
      [0:12] future per-step offsets (6x2, m), [12:18] future masks, [18] goal class,
      [19:28] lcf feat (x, y, yaw, vx, vy, width, length, height, type), [28:34] future yaw offsets."""
    A = np.array([a[:9] for a in AGENTS], dtype=np.float64)
    lab = np.array([a[9] for a in AGENTS], dtype=np.int64)
    typ = np.array([a[10] for a in AGENTS], dtype=np.float64)
    nv = np.array([a[11] for a in AGENTS], dtype=np.int64)
    boxes = A.copy()
    boxes[:, 2] -= boxes[:, 5] / 2
    n = len(A)
    t = np.arange(6)[None, :]
    off = np.stack([A[:, 7:8] * 0.5 + 0.02 * (t - 2), A[:, 8:9] * 0.5 - 0.03 * t], -1)  # (N,6,2)
    mask = (t < nv[:, None]).astype(np.float64)
    off = off * mask[..., None]
    goal = (np.arange(n) % 9).astype(np.float64)[:, None]
    lcf = np.concatenate([A[:, 0:2], A[:, 6:7], A[:, 7:9], A[:, 3:6], typ[:, None]], 1)
    dyaw = (0.01 * (np.arange(n)[:, None] - 3) + 0.002 * t) * mask
    attr = np.concatenate([off.reshape(n, 12), mask, goal, lcf, dyaw], 1)
    assert attr.shape[1] == 34
    return boxes.astype(np.float32), lab, attr.astype(np.float32)


def map_vectors():
    """list of (label, (n_pts, 2) float64 polyline in lidar xy); 0 divider, 1 ped_crossing (closed), 2 boundary.
    Build the original's LiDARInstanceLines from shapely LineStrings with
    sample_dist=1, num_samples=250, padding=False, fixed_num=20, padding_value=-10000, patch_size=(60, 30)."""
    t = np.linspace(-30, 30, 13)
    return [
        (0, np.stack([1.6 + 0.4 * np.sin(t / 9.0), t], 1)),
        (0, np.stack([-1.9 + 0.3 * np.cos(t / 11.0), t[::-1]], 1)),
        (2, np.stack([7.4 + 0.5 * np.sin(t / 13.0 + 1), t], 1)),
        (2, np.stack([-8.1 + 0.6 * np.sin(t / 10.0 + 2), t], 1)),
        (1, np.array([[-6.0, 10.0], [6.0, 10.4], [6.1, 13.9], [-5.9, 13.5], [-6.0, 10.0]])),
        (
            1,
            np.array(
                [[-7.0, -18.0], [-4.5, -18.5], [3.0, -18.2], [6.5, -17.6], [6.3, -15.0], [-6.8, -15.3], [-7.0, -18.0]]
            ),
        ),
        (2, np.array([[-15.0, 22.0], [-10.5, 21.0], [-9.0, 24.5], [-9.5, 30.0]])),
    ]
