"""The units of VAD that can be removed: what its modules declare, and which part of it is traced.

Declared: neurons of feed-forward networks, branches and small perceptrons, heads of attentions, and, pruned only when
named in ``targets``, the streams, the widths of heads and the sampling points. Traced: the image backbone and the neck.
"""

from . import attention, neurons, queries, streams  # noqa: F401
