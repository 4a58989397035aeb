"""Pictures of frames: cameras with boxes and plans, bird's-eye views beside them."""

from .frame import Cameras, draw_frame
from .hook import VADVisualizationHook
from .view import View, from_results, predicted, truth

__all__ = ['Cameras', 'VADVisualizationHook', 'View', 'draw_frame', 'from_results', 'predicted', 'truth']
