"""What a network weighs and costs: counting, timing, reporting. No mmcv, no detector."""

from vadslim.analysis.complexity import Complexity, count, count_params
from vadslim.analysis.example import Example, declares_example, find_example
from vadslim.analysis.latency import Latency, measure, measure_in_turn, measure_modules
from vadslim.analysis.latency_table import LatencyTable, LatencyTableError
from vadslim.analysis.layer_times import LayerTimes
from vadslim.analysis.predict import Macs, Params
from vadslim.analysis.report import EditRow, GroupRow, Measured, Report, print_report

__all__ = [
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
