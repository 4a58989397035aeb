"""VAD on MMEngine and MMDetection3D 1.x; importing it registers everything that its configs name."""

from . import (  # noqa: F401
    assigners,
    bev_encoder,
    coders,
    counting,
    datasets,
    decoders,
    deformable_attention,
    detector,
    edits,
    epoch_hook,
    groups,
    head,
    losses,
    map_losses,
    metrics,
    pictures,
    planning_losses,
    transformer,
    transformer_layer,
)
