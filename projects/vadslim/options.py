"""Configs from the command line: reading them, and ``--cfg-options`` that must name something."""

import ast
import difflib
import functools
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from .cli import UserError, say

# what MMEngine's Runner reads beside its own arguments
RUNNER_KEYS = {
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'sync_bn',
}
# the arguments of parts that carry no ``type``
PARTS: dict[str, Any] = {
    '': Runner,
    'train_cfg': (EpochBasedTrainLoop, IterBasedTrainLoop),
    'val_cfg': ValLoop,
    'test_cfg': TestLoop,
    'train_dataloader': DataLoader,
    'val_dataloader': DataLoader,
    'test_dataloader': DataLoader,
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'randomness': {'seed', 'deterministic', 'diff_rank_seed'},
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'optim_wrapper': {
        'type',
        'constructor',
        'paramwise_cfg',
        'clip_grad',
        'accumulative_counts',
        'loss_scale',
    },
}


def check_config(path: str | os.PathLike) -> None:
    """Check that a config file is there.

    Raises:
        UserError: names the nearest one.
    """
    file = Path(path)
    if not file.is_file():
        names = [str(near) for near in file.parent.glob('*.py')] if file.parent.is_dir() else []
        near = difflib.get_close_matches(str(file), names, n=1)
        raise UserError(f'{file}: no such config' + (f'; did you mean {near[0]}?' if near else ''))


def load_config(path: str | os.PathLike) -> Config:
    """Read a config file.

    Raises:
        UserError: it is missing, does not run, or is one of stages.
    """
    check_config(path)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is the user's own Python
        raise UserError(f'{path}: {type(error).__name__}: {error}') from error
    if Path(path).suffix in ('.yaml', '.yml') and {'stages', 'training', 'extends'} & set(cfg):
        raise UserError(f'{path}: is of a staged run; a stage of it has a config of its own, SAVE_DIR/NAME/config.py')
    return cfg


def merge_texts(cfg: Config, texts: Sequence[str]) -> None:
    """Put ``key=value`` texts over a config, in place, by :func:`merge_options`.

    Raises:
        UserError: a text that is not one, or whatever :func:`merge_options` raises.
    """
    for text in texts:
        key, equals, value = text.partition('=')
        if not key or not equals:
            raise UserError(f'--cfg-options {text}: write key=value')
        try:
            is_dict = value.lstrip().startswith('{')
            merge_options(cfg, {key: ast.literal_eval(value.strip()) if is_dict else DictAction._parse_iterable(value)})
        except (AssertionError, ValueError, SyntaxError) as error:
            raise UserError(f'--cfg-options {text}: the value cannot be read ({error})') from None
        except RecursionError:  # what MMEngine's reader does at dict(...)
            raise UserError(
                f'--cfg-options {text}: only numbers, texts, lists of them and {{...}}; more needs a config'
            ) from None


def merge_options(cfg: Config, options: Mapping[str, Any] | None, source: str = '--cfg-options') -> None:
    """Put ``--cfg-options`` over a config, in place; ``source`` is what errors call them.

    A key must be in the config, or be an argument of the class (or part of MMEngine's Runner) that it is
    given to. Only what stands under ``custom_keys`` (learning rates by parameter name) is free. A variable of the
    config file was used when the file was read: ``data_root`` is changed wherever it stands, of any other a line
    says that it has no effect.

    Raises:
        UserError: names the nearest key.
    """
    for key, value in (options or {}).items():
        parent, last, missing = _walk(cfg, key)
        if missing and 'custom_keys' not in key.split('.') and last not in _arguments(cfg, key, parent):
            near = difflib.get_close_matches(key, list(_keys(cfg)), n=1, cutoff=0.0)
            hint = f'; the nearest key is {near[0]}' if near else ''
            raise UserError(f'{source} {key}: there is no such key{hint}')
        if not missing and isinstance(value, Mapping) and _at(cfg, key.split('.')) is None:
            value = {'_delete_': True, **value}  # nothing to merge with, which MMEngine takes for a mistake
        places = {key: value}
        if not missing:
            places |= _uses(cfg, key, value, source)
        try:
            cfg.merge_from_dict(places)
        except (KeyError, TypeError, AssertionError) as error:
            raise UserError(f'{source} {key}={value}: {error.args[0] if error.args else error}') from None


def _uses(cfg: Config, key: str, value: Any, source: str) -> dict[str, Any]:
    """Where else an option that is a variable of the config file has to be put."""
    name = key.split('.')[0]
    if name in _parameters(Runner) | RUNNER_KEYS:
        return {}
    if key == 'data_root':
        places = [place for place in _keys(cfg) if place.endswith('.data_root')]
        return {place: value for place in places if _at(cfg, place.split('.')) == cfg.data_root}
    places = [place for place in _keys(cfg) if place.endswith(f'.{name}')][:2]
    instead = ' and '.join(places) or 'the keys that it went into, or inherit the config'
    _note(f'note: {source} {key} has no effect, {name} was used when the config was read; set {instead}')
    return {}


@functools.cache
def _note(line: str) -> None:
    say(line)  # once, however often a command reads its config


def _walk(cfg: Any, key: str) -> tuple[Any, str, bool]:
    """Follow a dotted key: where it ends, its first part that is missing (or the last), whether one is
    missing.
    """
    node: Any = cfg
    *parents, last = key.split('.')
    for part in [*parents, last]:
        if isinstance(node, list | tuple):
            if not part.isdecimal() or int(part) >= len(node):
                return node, part, True
            node, above = node[int(part)], node
        elif isinstance(node, Mapping | Config):
            if part not in node:
                return node, part, True
            node, above = node[part], node
        else:
            return node, part, True
    return above, last, False


def _arguments(cfg: Config, key: str, node: Any) -> set[str]:
    """The arguments that what is built from ``node`` takes."""
    if not isinstance(node, Mapping | Config):
        return set()
    path = key.split('.')
    prefix = next(('.'.join(path[:i]) for i in range(len(path)) if _at(cfg, path[:i]) is node), None)
    known = PARTS.get(prefix, ()) if prefix is not None else ()
    names = set(known) if isinstance(known, set) else _parameters(*(known if isinstance(known, tuple) else (known,)))
    if prefix == '':
        names |= RUNNER_KEYS
    if path[0] == 'param_scheduler':
        names.add('convert_to_iter_based')  # the Runner takes it out before it builds
    kind = node.get('type')
    if isinstance(kind, str):
        names |= _parameters(*_registered(kind, cfg.get('default_scope')))
    elif kind is not None:
        names |= _parameters(kind)
    return names


def _at(node: Any, path: list[str]) -> Any:
    for part in path:
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
    return node


def _registered(kind: str, scope: str | None) -> Iterator[Any]:
    if scope:
        with suppress(ImportError):
            import_module(f'{scope}.registry')
    for registry in vars(mmengine.registry).values():
        if not isinstance(registry, Registry):
            continue
        try:
            found = (registry._search_child(scope) or registry).get(kind)
        except Exception:  # not in this one: MMEngine raises all kinds
            continue
        if found is not None:
            yield found


def _parameters(*objects: Any) -> set[str]:
    """Names of the parameters of functions and of classes with their bases."""
    names: set[str] = set()
    for item in objects:
        for part in item.__mro__[:-1] if inspect.isclass(item) else (item,):
            function = vars(part).get('__init__') if inspect.isclass(part) else part
            if inspect.isfunction(function):
                names |= set(inspect.signature(function).parameters)
    return names - {'self', 'args', 'kwargs', 'cfg'}


def _keys(node: Any, prefix: str = '') -> Iterator[str]:
    items: Any = ()
    if isinstance(node, Mapping | Config):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for key, value in items:
        yield f'{prefix}{key}'
        yield from _keys(value, f'{prefix}{key}.')
