"""``tools/analysis_tools/visualization.py``: pictures and a video of what networks predict."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .cli import Parser, UserError, add_config_options, at_least, say
from .files import atomic_write

CONFIG = Path(__file__).resolve().parents[2] / 'configs' / 'VAD' / 'VAD_tiny_stage_2.py'
VIDEO = 'vis.mp4'


class Shot(NamedTuple):
    """A frame to draw: its place in the data set, its token, and where it is in its scene (scenes count from 1)."""

    index: int
    token: str
    scene: int
    frame: int


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(
        prog='visualization.py',
        description="Draw six cameras with boxes and the planned path, and bird's-eye views beside the ground truth.",
    )
    parser.add_argument('--result-path', required=True, metavar='FILE', help='results_nusc.json of tools/test.py')
    parser.add_argument('--save-path', required=True, metavar='DIR', help='folder of the pictures')
    parser.add_argument('--compare', metavar='FILE', help='a second result file, drawn beside the first')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='what the panels of the result files are called')
    parser.add_argument('--config', default=str(CONFIG), help=f'its test_dataloader says what is drawn ({CONFIG.stem})')
    parser.add_argument('--video', action='store_true', help=f'write {VIDEO} as well')
    parser.add_argument('--fps', type=at_least(1), default=2, help='frames of the video per second (2, as recorded)')
    parser.add_argument('--format', choices=('png', 'jpg'), default='png', help='of the pictures (png)')
    parser.add_argument('--dpi', type=at_least(30), default=150, help='2088 pixels wide at 150, the default')
    parser.add_argument('--score-thr', type=score, default=0.3, help='least score of a drawn agent (0.3)')
    parser.add_argument('--map-score-thr', type=score, default=0.4, help='least score of a drawn map element (0.4)')
    choice = parser.add_argument_group('which frames (all)')
    choice.add_argument('--scenes', type=at_least(1), nargs='+', metavar='N', help='scenes, counted from 1')
    choice.add_argument('--frames', nargs='+', metavar='TOKEN', help='sample tokens, or how they begin')
    choice.add_argument('--interval', type=at_least(1), default=1, metavar='N', help='every N-th frame')
    choice.add_argument('--max-frames', type=at_least(1), metavar='N', help='at most that many')
    add_config_options(parser)
    args = parser.parse_args(argv)
    files = [args.result_path, *([args.compare] if args.compare else [])]
    if args.names and len(args.names) != len(files):
        raise UserError(f'--names: {len(args.names)} names for {len(files)} result files')
    args.names = args.names or default_names(files)
    return args


def score(text: str) -> float:
    """Read a score: 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not a score: 0 to 1')
    return value


def default_names(files: Sequence[str]) -> list[str]:
    """Names of result files: 'prediction' for one; for two, the last parts of their paths that differ."""
    if len(files) == 1:
        return ['prediction']
    both = [Path(file).absolute().with_suffix('').parts for file in files]
    for names in zip(*(reversed(parts) for parts in both)):
        if len(set(names)) == len(names):
            return list(names)
    return ['first', 'second']


def main(argv: Sequence[str]) -> None:
    """Draw."""
    args = parse_args(argv)
    from .options import load_config, merge_texts

    cfg = load_config(args.config)
    merge_texts(cfg, args.cfg_options)
    folder = writable_folder(args.save_path, '--save-path')
    from .vad.results import read_results

    files = [args.result_path, *([args.compare] if args.compare else [])]
    dataset = vad_dataset(cfg, 'test_dataloader', args.config, _filters, test_mode=True)
    results = [read_results(file) for file in files]
    shots = choose(dataset, dict(zip(files, results)), args)
    with contextlib.ExitStack() as stack:
        add = stack.enter_context(video(folder / VIDEO, args.fps)) if args.video else None
        for shot in track_frames(shots):
            picture = draw(dataset, shot, results, args)
            write_picture(folder / f'{shot.scene:04d}_{shot.frame:03d}_{shot.token}.{args.format}', picture)
            if add is not None:
                add(picture)
    say(f'written: {len(shots)} pictures{f" and {VIDEO}" if args.video else ""} in {folder}')


def writable_folder(path: str, option: str) -> Path:
    """Make a folder for pictures.

    Raises:
        UserError: it cannot be made or written into.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / '.vadslim-writable'  # permissions alone do not tell: read-only file systems, root
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f'{option} {folder}: no folder to write into: {error.strerror}') from None
    return folder


def vad_dataset(cfg: Any, loader: str, name: str, change: Callable[[Any], Any], **options: Any) -> Any:
    """Build a dataset of a config.

    Args:
        cfg: the config.
        loader: key of the dataloader; without ``test_dataloader`` the one of ``val`` is taken.
        name: of the config, for messages.
        change: takes the pipeline's steps and returns those that are wanted.
        options: put over the dataset's.

    Raises:
        UserError: there is none, its data are not there, or it is not VAD's.
    """
    from mmengine.registry import DATASETS, init_default_scope

    from . import experiment

    if loader == 'test_dataloader' and cfg.get(loader) is None:
        loader = 'val_dataloader'
    if cfg.get(loader) is None:
        raise UserError(f'{name}: has no {loader}')
    init_default_scope('mmdet3d')
    from .vad.datasets import VADNuScenesDataset

    experiment.check_data(cfg, loader, name)
    wanted = dict(cfg[loader].dataset)
    dataset = DATASETS.build({**wanted, 'pipeline': change(wanted.get('pipeline', ())), **options})
    if not isinstance(dataset, VADNuScenesDataset):
        raise UserError(f'{name}: {loader}.dataset is {wanted["type"]}; pictures are drawn of VADNuScenesDataset')
    return dataset


def _filters(steps: Sequence[Any]) -> list[Any]:
    """The steps of a pipeline that choose agents: images are read at the size that is drawn."""
    return [step for step in steps if step['type'].startswith('CustomObject')]


def track_frames(frames: Sequence[Any]) -> Iterator[Any]:
    """Go through frames with a progress bar, on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(frames, 'drawing', console=console, disable=not console.is_terminal)


def choose(dataset: Any, results: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> list[Shot]:
    """The frames to draw, in the data set's order: those that all result files hold and the user asks for.

    Raises:
        UserError: there is none.
    """
    shots = list(shots_of(dataset))
    known = {shot.token for shot in shots}
    for file, content in results.items():
        held = {token for part in ('results', 'map_results', 'plan_results') for token in content[part]}
        if not held:
            raise UserError(f'{file}: holds no frame')
        if not held & known:
            raise UserError(
                f'{file}: none of its {len(held)} frames is among the {len(known)} of {dataset.ann_file}; '
                'give the --config that it was made with, or its data_root'
            )
        if missing := len(known - held):
            say(f'note: {file} lacks {missing} of {len(known)} frames; they are left out')
        if more := len(held - known):
            say(f'note: {more} frames of {file} are not in {dataset.ann_file}')
        shots = [shot for shot in shots if shot.token in held]
    if not shots:
        raise UserError(f'{" and ".join(results)}: have no frame in common')
    for token in args.frames or ():
        if not any(shot.token.startswith(token) for shot in shots):
            raise UserError(f'--frames {token}: no such frame in {" and ".join(results)}')
    present = {shot.scene for shot in shots}
    for scene in args.scenes or ():
        if scene not in present:
            raise UserError(f'--scenes {scene}: no frame of it; there are scenes {span(present)}')
    chosen = [
        shot
        for shot in shots
        if (not args.scenes or shot.scene in args.scenes)
        and (not args.frames or shot.token.startswith(tuple(args.frames)))
    ]
    if not chosen:
        raise UserError('--frames and --scenes: no frame is in both')
    return chosen[:: args.interval][: args.max_frames]


def shots_of(dataset: Any) -> Iterator[Shot]:
    """All frames of a data set."""
    scenes: dict[str, int] = {}
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        scene = scenes.setdefault(info['scene_token'], len(scenes) + 1)
        yield Shot(i, info['token'], scene, info['frame_idx'])


def span(numbers: set[int]) -> str:
    """Say which numbers there are: ``1 to 4``, or all of a few."""
    low, high = min(numbers), max(numbers)
    if len(numbers) == high - low + 1:
        return f'{low} to {high}' if high > low else str(low)
    return ', '.join(map(str, sorted(numbers)[:10])) + (', ...' if len(numbers) > 10 else '')


def draw(dataset: Any, shot: Shot, results: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> Any:
    """The picture (H, W, 3) of one frame, RGB."""
    from .vad.pictures import Cameras, draw_frame, from_results, truth
    from .vad.pictures.camera import camera_name, read_image
    from .vad.pictures.view import COMMANDS, command

    item = dataset[shot.index]
    classes = dataset.metainfo['classes']
    thresholds = (args.score_thr, args.map_score_thr)
    views = [
        from_results(result, shot.token, item['lidar2global'], classes, *thresholds, name)
        for result, name in zip(results, args.names)
    ]
    told = command(item)
    if told is not None:
        views.append(truth(item))
    return draw_frame(
        Cameras(
            [read_image(path) for path in item['img_path']], item['lidar2img'], [*map(camera_name, item['img_path'])]
        ),
        views,
        classes,
        extent=dataset.extent,
        header=f'scene {shot.scene}   frame {shot.frame}' + ('' if told is None else f'   command: {COMMANDS[told]}'),
        dpi=args.dpi,
        boxes_of=range(len(results)),
    )


def write_picture(path: Path, picture: Any) -> None:
    """Write a picture (H, W, 3), RGB, whole or not at all."""
    import cv2

    _, data = cv2.imencode(path.suffix, picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    try:
        with atomic_write(path, 'wb') as file:
            file.write(data.tobytes())
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from None


@contextlib.contextmanager
def video(path: Path, fps: int) -> Iterator[Any]:
    """A function that appends pictures (H, W, 3), RGB, to a video, which is there when all of them are in it."""
    import cv2

    temporary = path.with_name(f'.{path.stem}.tmp{path.suffix}')
    writer = cv2.VideoWriter()
    size: list[int] = []

    def add(picture: Any) -> None:
        if not size:
            size[:] = picture.shape[1], picture.shape[0]
            if not writer.open(str(temporary), cv2.VideoWriter_fourcc(*'mp4v'), fps, tuple(size)):
                raise UserError(f'{path}: OpenCV cannot write a video here; without --video there are the pictures')
        # frames of another size would be dropped without a word
        fitting = picture if picture.shape[1::-1] == tuple(size) else cv2.resize(picture, tuple(size))
        writer.write(cv2.cvtColor(fitting, cv2.COLOR_RGB2BGR))

    try:
        yield add
        writer.release()
        temporary.replace(path)
    finally:
        writer.release()
        temporary.unlink(missing_ok=True)
