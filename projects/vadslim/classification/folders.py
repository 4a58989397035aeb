"""Images in folders, read when they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..checkpoint import StrPath
from ..cli import UserError
from ..registry import DATASETS
from .images import check_split, split_off

SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.webp'}


def read_image(path: Path, size: int) -> torch.Tensor:
    """Read an image as RGB, its shorter side scaled to ``size``, and the middle cut out of the longer one.

    Returns:
        uint8 (3, size, size).

    Raises:
        UserError: the file is no image, or a damaged one.
    """
    try:
        with Image.open(path) as file:
            image = file.convert('RGB')
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, 'strerror', None) or 'is not an image, or a damaged one'
        raise UserError(f'{path}: {why}') from error
    if image.size != (size, size):
        width, height = image.size
        cut = min(width, height)
        left, top = (width - cut) / 2, (height - cut) / 2
        box = (left, top, left + cut, top + cut)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class FileImages(Dataset):
    """Images in files; an item is ``{'inputs': uint8 tensor (3, size, size), 'labels': int}``."""

    def __init__(self, files: list[tuple[Path, int]], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        return {'inputs': read_image(path, self.size), 'labels': label}


def class_folders(root: Path) -> list[str]:
    """The names of the folders in a folder, sorted: the classes.

    Raises:
        UserError: there are none.
    """
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not names:
        raise UserError(f'{root}: no folder of it holds the images of a class')
    return names


def list_images(root: Path, classes: list[str], inner: str = '') -> list[tuple[Path, int]]:
    """List the images of ``root/CLASS/inner`` by class and name.

    Raises:
        UserError: a class has none, or is not one of ``classes``.
    """
    unknown = sorted(set(class_folders(root)) - set(classes))
    if unknown:
        raise UserError(f'{root}: class {unknown[0]} is not among the {len(classes)} of the training images')
    files = []
    for label, name in enumerate(classes):
        folder = root / name / inner
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
        if not found:
            raise UserError(f'{folder}: no images of class {name} ({", ".join(sorted(SUFFIXES))})')
        files += [(path, label) for path in found]
    return files


@DATASETS.register_module()
class ImageFolder(FileImages):
    """Images in ``root/train/CLASS/*`` and ``root/test/CLASS/*``; classes are numbered by name.

    With ``root/val`` as well, the three folders are the splits. With only one of ``test`` and ``val``, as in ImageNet,
    that one is the test split, and ``val_size`` training images are validated on.

    Args:
        root: the folder.
        split: ``train``, ``val`` or ``test``.
        size: side of the images.
        val_size: how many training images are validated on, where no folder says it.
        split_seed: which of them.

    Raises:
        UserError: a folder or its images are missing.
    """

    def __init__(
        self, root: StrPath, split: str = 'train', size: int = 224, val_size: int = 5000, split_seed: int = 0
    ) -> None:
        check_split(split, 'ImageFolder')
        root = Path(root)
        held = [name for name in ('test', 'val') if (root / name).is_dir()]
        if not held or not (root / 'train').is_dir():
            raise UserError(f'ImageFolder: {root}: needs the folders train and test (or val)')
        classes = class_folders(root / 'train')
        if split == 'test' or (split == 'val' and len(held) == 2):
            folder = held[0] if split == 'test' else 'val'
            files = list_images(root / folder, classes)
        else:
            files = list_images(root / 'train', classes)
            if len(held) == 1:
                chosen = split_off(len(files), val_size, split_seed, f'ImageFolder: {root}')[split]
                files = [files[i] for i in chosen]
        super().__init__(files, size)


@DATASETS.register_module()
class TinyImageNet(FileImages):
    """200 classes of 64 x 64: ``train/WNID/images/*.JPEG`` and ``val/val_annotations.txt`` with ``val/images``.

    The test images of the archive have no labels: ``test`` is its ``val`` folder (10,000 images), and ``val`` is
    taken out of the 100,000 training images.

    Args:
        root: the folder ``tiny-imagenet-200``.
        split: ``train``, ``val`` or ``test``.
        val_size: how many training images are validated on.
        split_seed: which of them.

    Raises:
        UserError: a folder, its images or their labels are missing.
    """

    def __init__(self, root: StrPath, split: str = 'train', val_size: int = 10000, split_seed: int = 0) -> None:
        check_split(split, 'TinyImageNet')
        root = Path(root)
        classes = class_folders(root / 'train')
        if split == 'test':
            files = _annotated(root / 'val', {name: label for label, name in enumerate(classes)})
        else:
            files = list_images(root / 'train', classes, 'images')
            chosen = split_off(len(files), val_size, split_seed, f'TinyImageNet: {root}')[split]
            files = [files[i] for i in chosen]
        super().__init__(files, 64)


def _annotated(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    table = folder / 'val_annotations.txt'
    if not table.is_file():
        raise UserError(f'{table}: no such file; it names the classes of {folder / "images"}')
    files = []
    for number, line in enumerate(table.read_text(encoding='utf-8', errors='replace').splitlines(), 1):
        cells = line.split('\t')
        if len(cells) < 2 or cells[1] not in labels:
            raise UserError(f'{table}: line {number}: NAME, tab and one of the {len(labels)} classes are needed')
        files.append((folder / 'images' / cells[0], labels[cells[1]]))
    if not files:
        raise UserError(f'{table}: is empty')
    return files
