"""Ego fields of the info files: history, future, command and status of the vehicle along one scene."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vadslim.cli import UserError
from vadslim.nuscenes_data import geometry

EGO_LENGTH, EGO_WIDTH = 4.084, 1.85  # metres, Renault Zoe
WHEEL_BASE = 2.588
STEP = 0.5  # seconds between key frames
COMMAND_OFFSET = 2.0  # metres to the side at the end of the future that make a turn
RIGHT, LEFT, STRAIGHT = np.eye(3)


@dataclass
class SceneEgo:
    """Poses of one scene's K key frames in order: LiDAR and ego, quaternions [w, x, y, z] and metres."""

    ego_translation: np.ndarray
    ego_rotation: np.ndarray
    lidar_translation: np.ndarray
    lidar_rotation: np.ndarray
    his_ts: int = 2
    fut_ts: int = 6
    lidar2global: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        ego2global = geometry.rigid(self.ego_rotation, self.ego_translation)
        self.lidar2global = ego2global @ geometry.rigid(self.lidar_rotation, self.lidar_translation)
        track = self.lidar2global[:, :3, 3]
        # Before the scene the first step is continued backwards, after it the vehicle is taken to stand.
        first_step = track[1] - track[0] if len(track) > 1 else np.zeros(3)
        before = track[0] - first_step * np.arange(self.his_ts, 0, -1)[:, None]
        self._track = np.concatenate([before, track, np.repeat(track[-1:], self.fut_ts, axis=0)])

    def __len__(self) -> int:
        return len(self.ego_translation)

    def future_is_valid(self, i: int) -> bool:
        """Whether all future key frames of frame ``i`` exist."""
        return i + self.fut_ts < len(self)

    def trajectory(self, i: int) -> dict:
        """gt_ego_his_trajs (his, 2) and gt_ego_fut_trajs (fut, 2): per-step offsets in the LiDAR frame of
        frame ``i``, metres; gt_ego_fut_masks (fut,); gt_ego_fut_cmd (3,) one of [right, left, straight].
        """
        window = self._track[i : i + self.his_ts + 1 + self.fut_ts]
        local = geometry.transform(geometry.rigid_inverse(self.lidar2global[i]), window)[:, :2]
        side = local[-1, 0]
        command = RIGHT if side >= COMMAND_OFFSET else LEFT if side <= -COMMAND_OFFSET else STRAIGHT
        steps = np.diff(local, axis=0).astype(np.float32)
        return {
            'gt_ego_his_trajs': steps[: self.his_ts],
            'gt_ego_fut_trajs': steps[self.his_ts :],
            'gt_ego_fut_masks': (i + 1 + np.arange(self.fut_ts) < len(self)).astype(np.float32),
            'gt_ego_fut_cmd': command.astype(np.float32),
        }

    def status(self, i: int, can_bus: np.ndarray, motion: tuple[float, float] | None) -> np.ndarray:
        """gt_ego_lcf_feat (9,): vx, vy, ax, ay, turn rate, length, width, speed, curvature.

        VAD's converter reads the rotation [w, x, y, z] as [x, y, z, w], so that its "yaw" is the roll
        angle: the turn rate is a roll rate and the velocity points forward (vx ~ 0). Kept, as the
        published files hold these numbers.

        Args:
            i: frame.
            can_bus: (18,) the frame's CAN bus vector.
            motion: speed (m/s) and curvature (1/m) from the CAN bus; None estimates the speed from the track.
        """
        now, other = (i, i - 1) if i > 0 else (min(i + 1, len(self) - 1), i)
        angles = geometry.roll(self.ego_rotation[[other, now]])
        speed = np.linalg.norm(self.ego_translation[now, :2] - self.ego_translation[other, :2]) / STEP
        direction = geometry.roll(self.ego_rotation[i]) + np.pi / 2
        if motion is None:
            path = self.trajectory(i)
            motion = float(np.linalg.norm(path['gt_ego_his_trajs'][-1] + path['gt_ego_fut_trajs'][0])), 0.0
        feature = [speed * np.cos(direction), speed * np.sin(direction), *can_bus[7:9]]
        feature += [(angles[1] - angles[0]) / STEP, EGO_LENGTH, EGO_WIDTH, *motion]
        return np.array(feature, dtype=np.float32)


class CanBus:
    """Messages of the nuScenes CAN bus expansion for one scene.

    Args:
        folder: the folder ``can_bus``; None: there is none.
        scene: scene name, such as 'scene-0061'.
        left_hand_traffic: steering angles are mirrored, as VAD does for Singapore.

    Attributes:
        gap: what is not there and what is used in its place, for a person; '' if all is there.

    Raises:
        UserError: a file is damaged.
    """

    # The devkit's list of scenes whose recordings are unusable.
    UNUSABLE = frozenset([*range(161, 169), *range(170, 177), *range(309, 315)])

    def __init__(self, folder: str | Path | None, scene: str, left_hand_traffic: bool = False) -> None:
        self._sign = -1.0 if left_hand_traffic else 1.0
        self._times = self._steering_times = np.zeros(0, dtype=np.int64)
        self.gap = ''
        if int(scene[-4:]) in self.UNUSABLE:
            self.gap = f'CAN bus recordings that the devkit lists as unusable; {_NO_POSE}'
            return
        if folder is None:
            self.gap = f'converted without CAN bus; {_NO_POSE}'
            return
        poses = _columns(
            Path(folder) / f'{scene}_pose.json', ('pos', 'orientation', 'accel', 'rotation_rate', 'vel'), width=16
        )
        steering = _columns(Path(folder) / f'{scene}_steeranglefeedback.json', ('value',), width=1)
        if poses is None:
            self.gap = f'no messages in can_bus/SCENE_pose.json; {_NO_POSE}'
        elif steering is None:
            self.gap = f'no messages in can_bus/SCENE_steeranglefeedback.json; {_NO_STEERING}'
        if poses is not None:
            self._times, self._poses = poses
        if steering is not None:
            self._steering_times, self._steering = steering

    def __bool__(self) -> bool:
        return len(self._times) > 0

    def vector(self, timestamp: int) -> np.ndarray:
        """(18,) around ``timestamp`` (us): position and orientation of the last pose message up to it;
        acceleration, rotation rate and velocity of the first one after it (as VAD's converter has it);
        and two places that the dataset fills with the heading. Zeros without messages.
        """
        result = np.zeros(18)
        if self:
            following = int(np.searchsorted(self._times, timestamp, side='right'))
            result[:7] = self._poses[max(following - 1, 0), :7]
            result[7:16] = self._poses[min(following, len(self._poses) - 1), 7:]
        return result

    def motion(self, timestamp: int) -> tuple[float, float] | None:
        """Speed (m/s) and curvature (1/m, positive to the left) nearest to ``timestamp`` (us), None if
        unknown.
        """
        if not self or not len(self._steering_times):
            return None
        speed = self._poses[_nearest(self._times, timestamp), 13]
        steering = self._steering[_nearest(self._steering_times, timestamp), 0] * self._sign
        return float(speed), float(2 * steering / WHEEL_BASE)


_NO_STEERING = 'their speed is taken from the poses of the vehicle, their curvature is 0, as in the published files'
_AGAIN = 'unpack the CAN bus expansion of nuScenes again'
_NO_POSE = f'their acceleration, rotation rate and velocity are zeros, {_NO_STEERING}'


def _columns(path: Path, fields: tuple[str, ...], width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Times (N,) in us and values (N, width) of all messages of a file; None if there are none."""
    try:
        messages = json.loads(path.read_text())
        times = np.array([message['utime'] for message in messages], dtype=np.int64)
        values = np.array([np.hstack([message[name] for name in fields]) for message in messages], dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError('numbers that are not finite')
        return (times, values.reshape(-1, width)) if len(times) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}; {_AGAIN}') from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f'{path}: not a CAN bus file of nuScenes ({type(error).__name__}: {error}); {_AGAIN}') from None


def _nearest(times: np.ndarray, timestamp: int) -> int:
    i = int(np.searchsorted(times, timestamp))
    if i == len(times) or (i > 0 and timestamp - times[i - 1] < times[i] - timestamp):
        i -= 1
    return i
