"""The registries of vadslim.

``PRUNERS``, ``IMPORTANCES`` and ``ALLOCATIONS`` stand alone: MMEngine gives a scope room for one child per parent, so
they cannot all hang under one of its roots. Their ``build`` accepts bare (``L1``) and prefixed (``vadslim.L1``) names
under any default scope. ``HOOKS``, ``MODELS``, ``PARAM_SCHEDULERS``, ``DATASETS`` and ``METRICS`` are children of
MMEngine's own, written ``vadslim.X`` in configs.
"""

from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = 'vadslim'


class StandaloneRegistry(Registry):
    """A root registry whose names resolve with or without the ``vadslim.`` prefix, whatever the default scope."""

    def build(self, cfg: dict, *args: Any, **kwargs: Any) -> Any:
        cfg = dict(cfg)
        if isinstance(cfg.get('type'), str):
            cfg['type'] = cfg['type'].removeprefix(f'{SCOPE}.')
        return super().build({**cfg, '_scope_': SCOPE}, *args, **kwargs)


PRUNERS = StandaloneRegistry('pruner', scope=SCOPE, locations=['vadslim.pruning'])
IMPORTANCES = StandaloneRegistry('importance', scope=SCOPE, locations=['vadslim.pruning'])
ALLOCATIONS = StandaloneRegistry('allocation', scope=SCOPE, locations=['vadslim.pruning'])

HOOKS = Registry('hook', parent=root.HOOKS, scope=SCOPE, locations=['vadslim.hooks'])
MODELS = Registry('model', parent=root.MODELS, scope=SCOPE, locations=['vadslim.hooks'])
PARAM_SCHEDULERS = Registry(
    'parameter scheduler', parent=root.PARAM_SCHEDULERS, scope=SCOPE, locations=['vadslim.hooks']
)
DATASETS = Registry('dataset', parent=root.DATASETS, scope=SCOPE)
METRICS = Registry('metric', parent=root.METRICS, scope=SCOPE)
