"""The one-cycle schedule, in a form that a checkpoint can hold."""

from typing import Any

from mmengine.optim import OneCycleLR as MMEngineOneCycleLR

from ...registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class OneCycleLR(MMEngineOneCycleLR):
    """MMEngine's, whose arguments it takes; but its state is plain data.

    MMEngine's state holds the function by which it interpolates, and a checkpoint with a function in it is refused
    when it is read: see :func:`vadslim.checkpoint.load_checkpoint`.
    """

    def state_dict(self) -> dict[str, Any]:
        """All but the function, which the arguments determine."""
        state = super().state_dict()
        del state['anneal_func']
        return state
