"""CIFAR-10 and CIFAR-100 from local files, in the python or the binary version; nothing is downloaded.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. An image is 3,072 bytes: 32 x 32 red, then green, then blue.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checkpoint import StrPath, load_info
from ..cli import UserError
from ..registry import DATASETS
from .images import ArrayImages, check_split, split_off

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """How one version of a dataset lies on the disk.

    Attributes:
        folder: name of the unpacked archive.
        train, test: names of the files.
        images: (in each training file, in the test file).
        label: key of the labels in the python version; in the binary one, which of the leading bytes it is.
        label_bytes: of each record of the binary version; 0 for the python version.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    images: tuple[int, int]
    label: str | int
    label_bytes: int = 0


_FIVE = tuple(f'data_batch_{i}' for i in range(1, 6))
LAYOUTS = {
    'CIFAR10': (
        Layout('cifar-10-batches-py', _FIVE, ('test_batch',), (10000, 10000), 'labels'),
        Layout(
            'cifar-10-batches-bin', tuple(f'{name}.bin' for name in _FIVE), ('test_batch.bin',), (10000, 10000), 0, 1
        ),
    ),
    'CIFAR100': (
        Layout('cifar-100-python', ('train',), ('test',), (50000, 10000), 'fine_labels'),
        Layout('cifar-100-binary', ('train.bin',), ('test.bin',), (50000, 10000), 1, 2),
    ),
}


def find_layout(root: StrPath, name: str) -> tuple[Path, Layout]:
    """Find the folder of a dataset: ``root`` itself or the archive's folder in it.

    Raises:
        UserError: neither version is there.
    """
    for layout in LAYOUTS[name]:
        for folder in (Path(root) / layout.folder, Path(root)):
            if (folder / layout.train[0]).is_file():
                return folder, layout
    names = ' or '.join(layout.folder for layout in LAYOUTS[name])
    raise UserError(f'{name}: {root}: holds neither version of it (a folder {names} is needed, unpacked)')


def read_files(folder: Path, layout: Layout, training: bool, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the training or the test files.

    Returns:
        Images (N, 3, 32, 32) uint8 and labels (N,).

    Raises:
        UserError: a file is missing, is cut, or holds something else.
    """
    names, expected = (layout.train, layout.images[0]) if training else (layout.test, layout.images[1])
    parts = []
    for path in (folder / name for name in names):
        if not path.is_file():
            raise UserError(f'{path}: no such file; {layout.folder} has {", ".join(layout.train + layout.test)}')
        rows, labels = _binary(path, layout) if layout.label_bytes else _python(path, layout)
        if len(rows) != expected:
            raise UserError(f'{path}: holds {len(rows)} images, not {expected}: it is damaged or of another dataset')
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(f'{path}: has labels from {labels.min()} to {labels.max()}, not 0 to {classes - 1}')
        parts.append((rows.reshape(-1, 3, 32, 32), labels))
    images, labels = (np.concatenate(part) for part in zip(*parts))
    return images, labels


def _binary(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    data = np.fromfile(path, np.uint8)
    record = layout.label_bytes + PIXELS
    if len(data) == 0 or len(data) % record:
        raise UserError(f'{path}: has {len(data)} bytes, not a multiple of {record}: it is cut or of another dataset')
    data = data.reshape(-1, record)
    return data[:, layout.label_bytes :], data[:, int(layout.label)].astype(np.int64)


def _python(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    content = load_info(path)
    if not isinstance(content, dict):
        raise UserError(f'{path}: holds a {type(content).__name__}, not the dict of a CIFAR file')
    # the files were written by Python 2, whose texts later versions may have made bytes
    content = {key.decode('latin1') if isinstance(key, bytes) else key: value for key, value in content.items()}
    rows, labels = content.get('data'), content.get(layout.label)
    if not (isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and rows.ndim == 2 and rows.shape[1] == PIXELS):
        raise UserError(f"{path}: its 'data' are no rows of {PIXELS} bytes")
    if not (isinstance(labels, list | np.ndarray) and len(labels) == len(rows) > 0):
        raise UserError(f'{path}: has no {layout.label!r}, one for each image')
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in 'iu':
        raise UserError(f'{path}: its {layout.label!r} are not whole numbers')
    return rows, labels.astype(np.int64)


class _CIFAR(ArrayImages):
    classes: int

    def __init__(self, root: StrPath, split: str = 'train', val_size: int = 5000, split_seed: int = 0) -> None:
        name = type(self).__name__
        check_split(split, name)
        folder, layout = find_layout(root, name)
        images, labels = read_files(folder, layout, split != 'test', self.classes)
        if split != 'test':
            chosen = split_off(len(images), val_size, split_seed, name)[split]
            images, labels = images[chosen], labels[chosen]
        super().__init__(images, labels)


@DATASETS.register_module()
class CIFAR10(_CIFAR):
    """50,000 images of 32 x 32 in 10 classes, 5,000 of them to validate on, and 10,000 to test on.

    Args:
        root: the folder ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, or the one that holds it.
        split: ``train``, ``val`` or ``test``.
        val_size: how many of the training images are validated on.
        split_seed: which of them.

    Raises:
        UserError, CheckpointError: a file is missing, damaged or another one.
    """

    classes = 10


@DATASETS.register_module()
class CIFAR100(_CIFAR):
    """As :class:`CIFAR10`, in 100 classes (the fine labels); ``cifar-100-python`` or ``cifar-100-binary``."""

    classes = 100
