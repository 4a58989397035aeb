"""What a network weighs and costs: counting, timing, reporting. No mmcv, no detector.

The names below are imported when they are asked for: what reads headers needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vadslim.analysis.complexity import Complexity, count, count_params
    from vadslim.analysis.example import Change, Example, declares_example, find_example
    from vadslim.analysis.latency import Latency, measure, measure_in_turn, measure_modules
    from vadslim.analysis.latency_table import LatencyTable, LatencyTableError
    from vadslim.analysis.layer_times import LayerTimes
    from vadslim.analysis.predict import Macs, Params
    from vadslim.analysis.report import EditRow, GroupRow, Measured, Report, print_report

_HOME = {
    'Complexity': 'complexity',
    'count': 'complexity',
    'count_params': 'complexity',
    'Change': 'example',
    'Example': 'example',
    'declares_example': 'example',
    'find_example': 'example',
    'Latency': 'latency',
    'measure': 'latency',
    'measure_in_turn': 'latency',
    'measure_modules': 'latency',
    'LatencyTable': 'latency_table',
    'LatencyTableError': 'latency_table',
    'LayerTimes': 'layer_times',
    'Macs': 'predict',
    'Params': 'predict',
    'EditRow': 'report',
    'GroupRow': 'report',
    'Measured': 'report',
    'Report': 'report',
    'print_report': 'report',
}

__all__ = [
    'Change',
    'Complexity',
    'EditRow',
    'Example',
    'GroupRow',
    'Latency',
    'LatencyTable',
    'LatencyTableError',
    'LayerTimes',
    'Macs',
    'Measured',
    'Params',
    'Report',
    'count',
    'count_params',
    'declares_example',
    'find_example',
    'measure',
    'measure_in_turn',
    'measure_modules',
    'print_report',
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_HOME[name]}'), name)
