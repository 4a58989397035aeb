"""What happens in each of the ten scenes: where the ego starts, where it turns, whom it meets."""

from __future__ import annotations

from dataclasses import dataclass

from .roads import Node


@dataclass(frozen=True)
class Lead:
    """A vehicle that drives ahead of the ego on the same route.

    Attributes:
        category: official nuScenes category.
        gap: metres between the ego frame and the vehicle's centre at the start.
        speeds: (time s, wanted speed m/s) steps; the vehicle's speed follows them with bounded acceleration.
    """

    category: str
    gap: float
    speeds: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Walkers:
    """People who step onto the ego's ``crossing``-th zebra crossing when it arrives, and make it wait.

    Attributes:
        crossing: 0 is the first one ahead of the ego.
        people: categories, one walker each.
    """

    crossing: int
    people: tuple[str, ...] = ('human.pedestrian.adult',)


@dataclass(frozen=True)
class Scenario:
    """One scene's script.

    Attributes:
        location: official nuScenes location.
        node, direction, lane: the ego starts on the lane that arrives at crossroads ``node`` driving in ``direction``
            (see ``roads.DIRECTIONS``); lane 0 is next to the street's centre line, -1 next to the kerb.
        ahead: metres from the start to the crossroads.
        turns: one of S (straight), L, R per crossroads.
        start_speed, cruise: m/s at the start, and wanted where nothing is in the way.
        light: brightness of the rendered scene, 1 for noon.
    """

    location: str
    node: Node
    direction: int
    lane: int
    ahead: float
    turns: str
    start_speed: float
    cruise: float
    leads: tuple[Lead, ...] = ()
    walkers: tuple[Walkers, ...] = ()
    light: float = 1.0
    description: str = ''


_ADULT = 'human.pedestrian.adult'
_CHILD = 'human.pedestrian.child'

SCENARIOS = {
    'scene-0061': Scenario(
        'singapore-onenorth', (1, 0), 1, 0, 22.0, 'LRS', 6.0, 8.5,
        description='Turn left, turn right, parked cars',
    ),
    'scene-0103': Scenario(
        'boston-seaport', (0, 2), 0, 0, 24.0, 'RLS', 5.0, 8.0,
        walkers=(Walkers(3, (_ADULT, _ADULT)),),
        description='Turn right, turn left, pedestrians on crosswalk',
    ),
    'scene-0553': Scenario(
        'boston-seaport', (1, 3), 0, -1, 32.0, 'SSS', 8.0, 10.0,
        leads=(Lead('vehicle.car', 17.0, ((-1.0, 8.0), (2.0, 0.0), (8.0, 9.0))),),
        description='Wait behind stopped car, drive on straight',
    ),
    'scene-0655': Scenario(
        'boston-seaport', (1, 1), 1, 0, 30.0, 'SSS', 3.0, 12.0,
        description='Accelerate, drive straight through three intersections',
    ),
    'scene-0757': Scenario(
        'boston-seaport', (2, 2), 3, -1, 34.0, 'RLS', 8.5, 9.0,
        walkers=(Walkers(0, (_ADULT, _CHILD)),),
        description='Wait for pedestrians at crosswalk, turn right, turn left',
    ),
    'scene-0796': Scenario(
        'singapore-queenstown', (1, 1), 0, -1, 28.0, 'SRS', 5.5, 10.0,
        leads=(Lead('vehicle.bus.rigid', 20.0, ((-1.0, 4.5), (6.0, 7.5), (11.0, 5.0), (15.0, 9.0))),),
        description='Follow bus, turn right',
    ),
    'scene-0916': Scenario(
        'singapore-queenstown', (2, 1), 2, 0, 26.0, 'LRS', 7.5, 8.5,
        walkers=(Walkers(2, (_ADULT, _ADULT)),),
        description='Turn left, wait for pedestrians, turn right',
    ),
    'scene-1077': Scenario(
        'singapore-hollandvillage', (2, 2), 3, 0, 16.0, 'RLS', 0.0, 8.0,
        light=0.72,
        description='Dusk, start from standstill, turn right, turn left',
    ),
    'scene-1094': Scenario(
        'singapore-hollandvillage', (1, 1), 1, -1, 36.0, 'SLS', 9.5, 9.5,
        walkers=(Walkers(1, (_ADULT, _ADULT, _CHILD)),),
        light=0.66,
        description='Dusk, wait for pedestrians after intersection, turn left',
    ),
    'scene-1100': Scenario(
        'singapore-hollandvillage', (1, 2), 0, -1, 26.0, 'LRS', 6.0, 9.0,
        leads=(Lead('vehicle.motorcycle', 13.0, ((-1.0, 6.0), (5.0, 3.5), (9.0, 8.0), (14.0, 6.0))),),
        light=0.6,
        description='Dusk, follow motorcycle, turn left, turn right',
    ),
}  # fmt: skip
