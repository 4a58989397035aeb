"""The tasks of configs with sections: ``task: NAME`` names who turns them into an MMEngine config, and their schema.

Another task brings its own: a module that calls :func:`register_task` when it is imported (``--import MODULE``).
"""

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from vadslim.cli import UserError

from .schema import Schema, Setting, flag, number, text, whole

#: what the runs of every task are made of; the run itself reads these
COMMON: dict[str, Setting] = {
    'seed': whole(0, low=0, high=2**31 - 1),
    'device.type': text(None, 'cuda', 'cpu', optional=True),  # null: cuda if there is one
    'training.lr': number(1e-3, above=True),
    'training.batch_size': whole(32),
    'training.epochs': whole(50),
    'training.weight_decay': number(1e-4),
    'training.grad_clip': number(1.0, above=True, optional=True),  # norm of the gradients; null: as they are
    'training.scheduler': text('onecycle', 'onecycle', 'cosine', 'constant'),
    'training.total_steps': whole(None, optional=True),  # of the schedule; null: all steps of the stage
    'training.save_dir': text('checkpoints'),  # a stage's folder is SAVE_DIR/NAME
    'training.save_interval': whole(5),  # epochs
    'training.keep_last_n': whole(3, optional=True),  # of the files of each interval; null: all
    'data.num_workers': whole(4, low=0),
    'logging.log_interval': whole(10),  # steps
    'logging.tensorboard_dir': text('runs', optional=True),  # null: none is written
}
IMAGE_SIZE = 64  # pixels; the generator draws no other
CURRICULUM_STAGES = 9  # the hardest strokes; 0: a single one


def _ink_problem(settings: Mapping[str, Any]) -> str | None:
    for key in ('model.embed_dim', 'model.decoder_dim'):
        if settings[key] % 4:
            return f'{key} is {settings[key]}; a multiple of the 4 attention heads is needed'
    if settings['data.img_size'] != IMAGE_SIZE:
        return f'data.img_size is {settings["data.img_size"]}; strokes are drawn on {IMAGE_SIZE} x {IMAGE_SIZE} pixels'
    first, last = (settings[f'training.curriculum.{end}_stage'] for end in ('start', 'end'))
    if first > last:
        return f'training.curriculum.start_stage is {first}; end_stage {last} comes before it'
    return None


INK = Schema(
    {
        'model.embed_dim': whole(128, low=4),
        'model.num_layers': whole(4),
        'model.decoder_dim': whole(16, low=4),  # channels
        'model.full_heads': flag(True),  # false: the skeleton and its tangents alone, from a masked image
        'model.freeze_encoder': flag(False),  # true: a stage that starts from another keeps that one's encoder
        **COMMON,
        'training.epoch_length': whole(10_000, high=10**8),  # images; their order is held in memory
        'training.loss_weights.skeleton': number(10.0),
        'training.loss_weights.keypoints': number(5.0),
        'training.loss_weights.tangent': number(1.0),
        'training.loss_weights.width': number(1.0),
        'training.loss_weights.offset': number(1.0),
        'training.curriculum.enabled': flag(False),  # true: it counts, and data.curriculum_stage does not
        'training.curriculum.start_stage': whole(0, low=0, high=CURRICULUM_STAGES),
        'training.curriculum.end_stage': whole(6, low=0, high=CURRICULUM_STAGES),
        'training.curriculum.epochs_per_stage': whole(8),
        'training.mask_ratio': number(0.6, high=1, below=True),
        'training.mask_strategy': text('block', 'block', 'random'),
        'data.img_size': whole(IMAGE_SIZE),
        'data.rust_threads': whole(4),  # of the predecessor's generator: read, not used
        'data.curriculum_stage': whole(0, low=0, high=CURRICULUM_STAGES),
        'logging.vis_interval': whole(2, low=0),  # epochs; 0: no pictures
    },
    _ink_problem,
)
TASKS: dict[str, Schema] = {'ink': INK}


def register_task(name: str, schema: Schema) -> None:
    """Make a task known.

    Args:
        name: what ``task:`` says.
        schema: its table; it holds :data:`COMMON`, with defaults of its own where it likes.

    Raises:
        ValueError: the name is taken, or keys of :data:`COMMON` are missing.
    """
    if name in TASKS:
        raise ValueError(f'task {name} is there already')
    if missing := sorted(set(COMMON) - set(schema.settings)):
        raise ValueError(f'task {name}: the schema lacks {", ".join(missing)}')
    TASKS[name] = schema


def import_tasks(modules: Iterable[str]) -> None:
    """Import what registers tasks, as ``--import`` names it.

    Raises:
        UserError: there is no such module.
    """
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f'{module}.'.startswith(f'{error.name}.'):
                raise  # of what the module itself imports
            raise UserError(f'--import {module}: no such module; PYTHONPATH says where modules are') from None


def schema_of(task: Any, where: str) -> Schema:
    """The schema of a task; ``where`` starts the error."""
    if not isinstance(task, str) or task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, 1, 0.0)[0]
        raise UserError(f'{where}: task is {task!r:.60}; known are {", ".join(TASKS)}; the nearest is {near}')
    return TASKS[task]
