"""From a config and a checkpoint to an MMEngine Runner: what training and testing share."""

import functools
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import barrier, is_main_process
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from .checkpoint import StrPath, atomic_write
from .checkpoint_format import held_config
from .cli import UserError, say
from .hooks.progress_hook import ProgressHook
from .hooks.slim_model import checkpoint_structure, without_pretrained
from .image_norm import SWAPS, ImageNorm, norm_of_config, preprocessor_places
from .old_layouts import notes_of

# packages whose registered classes a config that comes out of a checkpoint may name
TRUSTED = {'mmengine', 'mmcv', 'mmdet', 'mmdet3d', 'vadslim'}

# back ends of MMEngine's visualizer -> the packages that they import
BACKENDS = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}


def bare(kind: Any) -> str:
    """Get a type's name without its scope."""
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def default_work_dir(cfg: Config, config: StrPath | None, work_dir: str | None) -> None:
    """Set ``cfg.work_dir``: the option, else the config's, else ./work_dirs/NAME."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(config or 'resumed').stem)  # noqa: PTH118  a config holds text
    path = Path(cfg.work_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path}: cannot be created: {error.strerror}') from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f'{path}: cannot be written')


def add_hooks(cfg: Config) -> None:
    """Let a config that does not name them have vadslim's hooks, in place: they change no result.

    Structures are checked and stored, random states kept, checkpoints written whole.
    """
    hooks = list(cfg.get('custom_hooks') or [])
    present = {bare(hook.get('type')) for hook in hooks if isinstance(hook, Mapping)}
    hooks += [{'type': f'vadslim.{name}'} for name in ('RandomStateHook', 'StructureHook') if name not in present]
    cfg.custom_hooks = hooks
    defaults = cfg.get('default_hooks') or ConfigDict()
    saver = defaults.get('checkpoint', {'type': 'CheckpointHook', 'interval': 1})
    if isinstance(saver, Mapping) and bare(saver.get('type')) == 'CheckpointHook':
        saver = {**saver, 'type': 'vadslim.CheckpointHook'}
    cfg.default_hooks = {**defaults, 'checkpoint': saver}


class FormattedOnce(Config):
    """A config that formats its text once, not anew for each checkpoint: yapf takes seconds for VAD's."""

    _known = ('', '')  # one for all copies: content and text

    @property
    def pretty_text(self) -> str:
        content, text = FormattedOnce._known
        if content != (new := repr(self._cfg_dict)):
            content, text = FormattedOnce._known = new, super().pretty_text
        return text


def build_runner(cfg: Config, name: str = '') -> Runner:
    """Build the Runner of a config; on a terminal a bar shows where its training, validation or test is.

    Args:
        cfg: whole.
        name: what is trained or tested, for the bar.
    """
    own = FormattedOnce()
    own.__setstate__(cfg.__getstate__())
    runner = Runner.from_cfg(own)
    if not any(isinstance(hook, ProgressHook) for hook in runner.hooks):
        runner.register_hook(ProgressHook(name))
    return runner


def check_trainable(cfg: Config, name: StrPath) -> None:
    """Check what can be known of a training before a Runner is built.

    Raises:
        UserError: the config lacks a part, its data are not there, or it needs a GPU that is not there.
    """
    missing = [key for key in ('train_dataloader', 'train_cfg', 'optim_wrapper') if cfg.get(key) is None]
    if missing:
        raise UserError(f'config {name} has no {missing[0]}: it cannot be trained')
    if bare(cfg.optim_wrapper.get('type')) == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise UserError(f'config {name}: its optim_wrapper (AmpOptimWrapper, mixed precision) needs a GPU')
    for loader in ('train_dataloader', 'val_dataloader'):
        check_data(cfg, loader, name)


def check_backends(cfg: Config) -> None:
    """Check that the packages of the visualizer's back ends are there: MMEngine would ask for them amid a run.

    Raises:
        UserError: one is not.
    """
    for backend in (cfg.get('visualizer') or {}).get('vis_backends') or ():
        kind = bare(backend.get('type') if isinstance(backend, Mapping) else backend)
        package = BACKENDS.get(kind)
        if package is not None and find_spec(package) is None:
            raise UserError(
                f'visualizer.vis_backends: {kind} needs the package {package}, which is not installed; '
                f'pip install {package}, or use LocalVisBackend'
            )


def check_data(cfg: Config, loader: str, name: StrPath) -> None:
    """Check that the annotation file of a loader's dataset is there.

    Raises:
        UserError: it is not.
    """
    dataset = (cfg.get(loader) or {}).get('dataset') or {}
    while isinstance(dataset.get('dataset'), dict):  # one around another
        dataset = dataset['dataset']
    file = dataset.get('ann_file')
    if not isinstance(file, str) or not file or '://' in file:
        return
    path = Path(dataset.get('data_root') or '', file)
    if not path.exists() and not Path(file).exists():
        raise UserError(f'{path}: no such file; {loader} of config {name} needs it')


def weights_of(checkpoint: Mapping[str, Any], source: StrPath) -> dict[str, Any]:
    """Get the state dict of a checkpoint, without the prefix that DDP puts before the names.

    Raises:
        UserError: there is none.
    """
    state = checkpoint.get('state_dict')
    if not isinstance(state, Mapping) or not state:
        held = ', '.join(map(str, checkpoint)) or 'nothing'
        raise UserError(f'checkpoint {source} has no state_dict; it holds {held}')
    for note in notes_of(checkpoint):
        _note_once(f'warning: {source}: {note}')
    return {name.removeprefix('module.'): value for name, value in state.items()}


def use_structure(cfg: Config, checkpoint: Mapping[str, Any], source: StrPath) -> bool:
    """Let a dense config build the slim network of a checkpoint, in place.

    Args:
        cfg: its ``model`` becomes a ``SlimModel`` of itself if the checkpoint is slim and the model is not.
        checkpoint: what ``source`` holds.
        source: where the structure is read from when the model is built.

    Returns:
        Whether the model was changed.
    """
    if checkpoint_structure(checkpoint) is None or bare(cfg.model.get('type')) == 'SlimModel':
        return False
    architecture = cfg.model
    cfg._cfg_dict.pop('model')  # assigning would merge
    cfg.model = ConfigDict(type='vadslim.SlimModel', architecture=architecture, structure=str(source))
    return True


def note_image_norm(cfg: Config, checkpoint: Mapping[str, Any], source: StrPath) -> None:
    """Tell if a checkpoint was trained with images normalised in another way than the config's, as far as both say.

    Args:
        cfg: as the command line has made it, before its model is made slim.
        checkpoint: what ``source`` holds.
        source: for the line.
    """
    config = cfg._cfg_dict
    theirs, ours, places = _trained_norm(checkpoint), norm_of_config(config), preprocessor_places(config)
    if theirs is None or ours is None or not places or theirs.is_close(ours):
        return
    place, settings = next(iter(places.items()))
    swap = next((key for key in SWAPS if key in settings), 'bgr_to_rgb')
    mean, std = (str(list(numbers)).replace(' ', '') for numbers in (theirs.mean, theirs.std))
    _note_once(
        f'warning: {source} was trained with other images than the config makes (mean {list(theirs.mean)}, std '
        f'{list(theirs.std)}, {swap} {theirs.swapped}; the config: mean {list(ours.mean)}, std {list(ours.std)}, '
        f'{swap} {ours.swapped}); to match: --cfg-options {place}.mean="{mean}" {place}.std="{std}" '
        f'{place}.{swap}={theirs.swapped}'
    )


def _trained_norm(checkpoint: Mapping[str, Any]) -> ImageNorm | None:
    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping):
        return None
    norm = ImageNorm.of(meta.get('image_norm'))
    if norm is None:
        with suppress(ValueError, TypeError, RecursionError):
            norm = norm_of_config(held_config(checkpoint) or {})
    return norm


@functools.cache
def _note_once(line: str) -> None:
    say(line)  # however often a command reads its checkpoint


def keep_structure(cfg: Config, checkpoint: Mapping[str, Any], work_dir: StrPath) -> None:
    """Write the structure beside the results, and let the config read it there: checkpoints come and go."""
    from .pruning import Structure

    file = Path(work_dir).absolute() / 'structure.json'
    structure = Structure.from_dict(checkpoint_structure(checkpoint))
    if is_main_process():
        structure.save(file)
    barrier()
    cfg.model.structure = str(file)


def never_download(cfg: Config) -> None:
    """Take pretrained weights out of a config whose weights come from a checkpoint, in place."""
    without_pretrained(cfg.model)


def config_of(checkpoint: Mapping[str, Any], source: StrPath) -> Config:
    """Get the config that a checkpoint was trained with, from plain data.

    A config names classes to build, so one that comes from a file without the user's hand is taken only if
    all of them are registered by name in packages that belong here: no dotted path, which MMEngine would
    import and call.

    Raises:
        UserError: the checkpoint has none, or it names anything else.
    """
    try:
        data = held_config(checkpoint)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{source}: its config cannot be read ({error}); give the CONFIG') from None
    if data is None:
        raise UserError(f'{source}: holds no config as plain data; give the CONFIG')
    imports = (data.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    scopes = [data['default_scope']] if data.get('default_scope') else []
    untrusted = [name for name in [*imports, *scopes] if str(name).split('.')[0] not in TRUSTED]
    if not untrusted:
        import_modules_from_strings(imports)
        known = _registered_names()
        untrusted = [kind for kind in _types(data) if kind not in known]
    if untrusted:
        kind = str(untrusted[0])[:60]
        raise UserError(f'{source}: its config names {kind!r}, which is not taken; give the CONFIG')
    return Config(data)


def _types(item: Any) -> list[Any]:
    """Get the values of all keys by which MMEngine chooses what to build, at any depth."""
    if isinstance(item, list | tuple):
        return [kind for part in item for kind in _types(part)]
    if not isinstance(item, dict):
        return []
    own = [str(item[key]) for key in ('type', 'constructor', '_scope_') if item.get(key) is not None]
    return own + [kind for part in item.values() for kind in _types(part)]


def _registered_names() -> set[str]:
    """Get the names, bare and with their scope, of all that trusted packages have registered."""
    names = set(TRUSTED)  # as values of _scope_
    waiting = [item for item in vars(mmengine.registry).values() if isinstance(item, Registry)]
    while waiting:
        registry = waiting.pop()
        waiting += registry.children.values()
        if registry.scope in TRUSTED:
            with suppress(ModuleNotFoundError):  # mmdet3d names places that it does not have, such as mmdet3d.api
                registry.import_from_location()
            for name in registry.module_dict:
                names |= {name, f'{registry.scope}.{name}'}
    return names


def write_text(path: StrPath, text: str) -> None:
    """Write a small text file, whole or not at all."""
    try:
        with atomic_write(path) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from None
