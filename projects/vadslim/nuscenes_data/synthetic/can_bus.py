"""CAN bus messages of a scene, under the names, units and frames of the nuScenes CAN bus expansion.

To save space everything but ``vehicle_monitor`` (2 Hz) comes at 50 Hz, where the expansion has 100 Hz for
``ms_imu`` and ``steeranglefeedback`` and about 900 Hz for ``zoesensors``; ``zoe_veh_info`` is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .population import Scene
from .tables import recording, yaw_quaternion

_GRAVITY = 9.81
_WHEELBASE = 2.588  # metres, Renault Zoe
_STEERING_RATIO = 15.2  # steering wheel angle over road wheel angle
_WHEEL_RADIUS = 0.305


def message_files(scene: Scene) -> dict[str, Any]:
    """The contents of all message files of a scene, ready for json, by message name."""
    drive = scene.drive
    start = recording(scene).start_us
    inside = (drive.times >= -0.5) & (drive.times <= drive.times[-1] - 0.5)
    rows = np.flatnonzero(inside)
    utime = start + np.round(drive.times * 1e6).astype(np.int64)
    # The expansion counts steering to the right as positive.
    steering = -np.arctan(_WHEELBASE * drive.curvature) * _STEERING_RATIO
    lateral = drive.yaw_rate * drive.speed
    throttle = np.clip(drive.accel, 0.0, None) / 2.0 * 400 + drive.speed * 8.0
    brake = np.clip(-drive.accel, 0.0, None)

    files: dict[str, Any] = {'pose': [], 'ms_imu': [], 'steeranglefeedback': [], 'zoesensors': []}
    for k in rows:
        t = int(utime[k])
        accel = [_r(drive.accel[k]), _r(lateral[k]), _GRAVITY]
        rate = [0.0, 0.0, _r(drive.yaw_rate[k], 5)]
        orientation = yaw_quaternion(drive.yaw[k])
        position = [_r(drive.x[k], 6), _r(drive.y[k], 6), 0.0]
        # The order of keys is the expansion's: VAD reads accel, rotation_rate, vel by position.
        files['pose'].append(
            {
                'accel': accel,
                'orientation': orientation,
                'pos': position,
                'rotation_rate': rate,
                'utime': t,
                'vel': [_r(drive.speed[k]), 0.0, 0.0],
            }
        )
        files['ms_imu'].append({'linear_accel': accel, 'q': orientation, 'rotation_rate': rate, 'utime': t})
        files['steeranglefeedback'].append({'utime': t, 'value': _r(steering[k])})
        files['zoesensors'].append(
            {
                'brake_sensor': _r(0.375 + 0.009 * min(brake[k], 4.0)),
                'steering_sensor': _r(np.rad2deg(steering[k]), 1),
                'throttle_sensor': int(throttle[k]),
                'utime': t,
            }
        )
    files['vehicle_monitor'] = _monitor(scene, rows[::25], utime, steering, throttle, brake)
    files['meta'] = {name: _statistics(messages) for name, messages in files.items()}
    files['route'] = _route(scene)
    return files


def _r(value: float, digits: int = 4) -> float:
    """Rounded, and never minus zero."""
    return round(float(value), digits) + 0.0


def _monitor(
    scene: Scene,
    rows: np.ndarray,
    utime: np.ndarray,
    steering: np.ndarray,
    throttle: np.ndarray,
    brake: np.ndarray,
) -> list[dict[str, object]]:
    drive = scene.drive
    rate = np.gradient(np.rad2deg(steering), drive.times)
    result = []
    for k in rows:
        rpm = _r(drive.speed[k] / (2 * np.pi * _WHEEL_RADIUS) * 60, 2)
        result.append(
            {
                'available_distance': 160,
                'battery_level': 80,
                'brake': int(brake[k] * 20),
                'brake_switch': 2 if brake[k] > 0.3 else 1,
                'gear_position': 7,
                'left_signal': int(steering[k] < -1.0),
                'rear_left_rpm': rpm,
                'rear_right_rpm': rpm,
                'right_signal': int(steering[k] > 1.0),
                'steering': _r(np.rad2deg(steering[k]), 1),
                'steering_speed': _r(rate[k], 1),
                'throttle': int(throttle[k]),
                'utime': int(utime[k]),
                'vehicle_speed': _r(drive.speed[k] * 3.6, 2),
                'yaw_rate': _r(np.rad2deg(drive.yaw_rate[k]), 1),
            }
        )
    return result


def _statistics(rows: list[dict[str, object]]) -> dict[str, object]:
    """The expansion's summary of one message type."""
    span = (rows[-1]['utime'] - rows[0]['utime']) / 1e6
    stats = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], dtype=np.float64)
        steps = np.diff(values, axis=0)
        stats[name] = {
            f'{kind}{label}': np.round(getattr(np, call)(part, axis=0), 6).tolist()
            for part, kind in ((values, ''), (steps, 'diff_'))
            for label, call in (('max', 'max'), ('mean', 'mean'), ('min', 'min'), ('std', 'std'))
        }
    return {
        'message_count': len(rows),
        'message_freq': round((len(rows) - 1) / span, 4) if span else 0.0,
        'timespan': span,
        'var_stats': stats,
    }


def _route(scene: Scene) -> list[list[float]]:
    """The recommended way from 50 m before to 50 m after the scene, one point per 0.2 m."""
    drive = scene.drive
    low, high = max(drive.s[0] - 50.0, 0.0), min(drive.s[-1] + 50.0, drive.path.length)
    x, y, _ = drive.path.pose(np.arange(low, high, 0.2))
    return np.round(np.stack([x, y], axis=1), 3).tolist()
