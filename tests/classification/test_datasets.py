"""CIFAR, folders and digits: who is in which split, what an item is, and one line for files that are not right."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vadslim.checkpoint import CheckpointError
from vadslim.classification import CIFAR10, CIFAR100, Digits, ImageFolder, TinyImageNet, cifar, split_off
from vadslim.cli import UserError
from vadslim.registry import DATASETS

COUNTS = {'CIFAR10': (6, 5), 'CIFAR100': (30, 5)}  # in place of tens of thousands


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    for name, layouts in cifar.LAYOUTS.items():
        small = tuple(replace(layout, images=COUNTS[name]) for layout in layouts)
        monkeypatch.setitem(cifar.LAYOUTS, name, small)


def content(name, number):
    """Images, labels and coarse labels of one file, the same in both versions."""
    generator = np.random.default_rng(number)
    count = COUNTS[name][number == 9]
    images = generator.integers(0, 256, (count, cifar.PIXELS), np.uint8)
    return images, generator.integers(0, 100 if name == 'CIFAR100' else 10, count), generator.integers(0, 20, count)


def write(root, name, binary, keys=str):
    """Write a whole dataset; ``keys`` is the type of the keys in the pickles."""
    layout = cifar.LAYOUTS[name][binary]
    folder = root / layout.folder
    folder.mkdir(parents=True)
    for number, file in [*enumerate(layout.train), (9, layout.test[0])]:
        images, labels, coarse = content(name, number)
        if binary:
            leading = [labels] if name == 'CIFAR10' else [coarse, labels]
            np.column_stack([*leading, images]).astype(np.uint8).tofile(folder / file)
        else:
            data = {'data': images, layout.label: labels.tolist(), 'coarse_labels': coarse.tolist()}
            data = {key.encode() if keys is bytes else key: value for key, value in data.items()}
            (folder / file).write_bytes(pickle.dumps(data, protocol=2))
    return root


def items(dataset):
    return [(item['inputs'].numpy().tobytes(), item['labels']) for item in (dataset[i] for i in range(len(dataset)))]


VERSIONS = [(CIFAR10, 5), (CIFAR100, 1)]


@pytest.mark.parametrize('cls,files', VERSIONS)
@pytest.mark.parametrize('binary,keys', [(False, str), (False, bytes), (True, None)])
def test_cifar(cls, files, binary, keys, tmp_path):
    root = write(tmp_path, cls.__name__, binary, keys)
    train, val, test = (items(cls(root, split, val_size=7)) for split in ('train', 'val', 'test'))
    expected = [
        (image.tobytes(), label) for number in range(files) for image, label in zip(*content(cls.__name__, number)[:2])
    ]
    assert (len(train), len(val)) == (23, 7)
    assert sorted(train + val) == sorted(expected)
    assert test == [(image.tobytes(), label) for image, label in zip(*content(cls.__name__, 9)[:2])]
    layout = cifar.LAYOUTS[cls.__name__][binary]
    assert items(cls(root / layout.folder, 'val', val_size=7)) == val  # the inner folder; the same split again
    assert items(cls(root, 'val', val_size=7, split_seed=1)) != val


def test_cifar_item_and_registry(tmp_path):
    root = write(tmp_path, 'CIFAR10', True)
    dataset = DATASETS.build({'type': 'vadslim.CIFAR10', 'root': str(root), 'val_size': 3})
    item = dataset[0]
    assert (item['inputs'].shape, item['inputs'].dtype, type(item['labels'])) == ((3, 32, 32), torch.uint8, int)
    item['inputs'].zero_()
    assert dataset[0]['inputs'].any()  # nobody writes into the dataset


def test_the_published_sizes():
    """Of the datasets themselves: 45,000 and 5,000 once their files are read."""
    parts = split_off(50000, 5000, 0, 'CIFAR10')
    assert (len(parts['train']), len(parts['val'])) == (45000, 5000)
    assert set(parts['train']) | set(parts['val']) == set(range(50000))
    assert (parts['val'][1:] > parts['val'][:-1]).all()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_one_image(path):
    path.write_bytes(path.read_bytes()[:-3073])


def wrong_label(path):
    path.write_bytes(b'\x0a' + path.read_bytes()[1:])


class Evil:
    def __reduce__(self):
        return (print, ('ran',))


def pickled(value):
    return lambda path: path.write_bytes(pickle.dumps(value, protocol=2))


IMAGES = np.zeros((6, cifar.PIXELS), np.uint8)


@pytest.mark.parametrize(
    'binary,damage,says',
    [
        (True, cut, 'not a multiple of 3073'),
        (True, drop_one_image, 'holds 5 images, not 6'),
        (True, wrong_label, 'has labels from 0 to 10, not 0 to 9'),
        (True, lambda path: path.write_bytes(b''), 'has 0 bytes'),
        (True, Path.unlink, 'no such file'),
        (False, cut, 'truncated'),
        (False, pickled(Evil()), 'is not data: refused'),
        (False, pickled([1]), 'holds a list'),
        (False, pickled({'data': IMAGES[:, 1:], 'labels': [0] * 6}), 'no rows of 3072 bytes'),
        (False, pickled({'data': IMAGES, 'labels': [0] * 5}), "no 'labels', one for each image"),
        (False, pickled({'data': IMAGES, 'fine_labels': [0] * 6}), "no 'labels', one for each image"),
        (False, pickled({'data': IMAGES, 'labels': ['cat'] * 6}), 'are not whole numbers'),
    ],
)
def test_bad_cifar_files(binary, damage, says, tmp_path, capsys):
    layout = cifar.LAYOUTS['CIFAR10'][binary]
    root = write(tmp_path, 'CIFAR10', binary)
    path = root / layout.folder / layout.train[2]
    if damage is wrong_label:  # the others must be in range for the message to be known
        data = np.fromfile(path, np.uint8).reshape(-1, 3073)
        data[:, 0] = 0
        data.tofile(path)
    damage(path)
    with pytest.raises((UserError, CheckpointError)) as error:
        CIFAR10(root, val_size=3)
    assert says in str(error.value) and str(path) in str(error.value)
    assert '\n' not in str(error.value) and capsys.readouterr().out == ''


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match='cifar-10-batches-py or cifar-10-batches-bin'):
        CIFAR10(tmp_path)
    root = write(tmp_path, 'CIFAR10', True)
    with pytest.raises(UserError, match='choose from train, val, test'):
        CIFAR10(root, 'valid')
    for size in (0, 30):
        with pytest.raises(UserError, match='val_size'):
            CIFAR10(root, val_size=size)


# --- digits -------------------------------------------------------------------------------------------------


def test_digits():
    parts = {split: Digits(split) for split in ('train', 'val', 'test')}
    assert [len(part) for part in parts.values()] == [1000, 300, 497]
    labels = np.concatenate([part.labels for part in parts.values()])
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert (np.bincount(labels) == np.bincount(digits.target)).all()  # each digit once, in one of the splits
    everything = np.concatenate([Digits(split, size=8).images[:, 1] for split in parts])
    expected = np.round(digits.images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in everything) == sorted(image.tobytes() for image in expected)
    item = parts['val'][0]
    assert (item['inputs'].shape, item['inputs'].dtype) == ((3, 32, 32), torch.uint8)
    assert Digits('val', 16)[0]['inputs'].shape == (3, 16, 16)
    assert items(Digits('test')) == items(parts['test']) != items(Digits('test', split_seed=1))


def test_digits_without_scikit_learn(monkeypatch):
    """Importing vadslim.classification did not need it."""
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(UserError, match='pip install scikit-learn'):
        Digits()


# --- folders ------------------------------------------------------------------------------------------------


def save(path, colour, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(path)


@pytest.fixture
def folders(tmp_path):
    for number in range(4):
        save(tmp_path / 'train' / 'cat' / f'{number}.png', (number, 0, 0))
        save(tmp_path / 'train' / 'ant' / f'{number}.png', (number, 9, 0))
    save(tmp_path / 'val' / 'cat' / 'x.png', (50, 0, 0))
    save(tmp_path / 'val' / 'ant' / 'x.png', (50, 9, 0))
    return tmp_path


def colours(dataset):
    return [
        (*(int(channel.max()) for channel in item['inputs']), item['labels'])
        for item in map(dataset.__getitem__, range(len(dataset)))
    ]


def test_image_folder(folders):
    train, val = (ImageFolder(folders, split, 8, val_size=3) for split in ('train', 'val'))
    everything = [(number, green, 0, green == 0) for green in (9, 0) for number in range(4)]
    assert len(val) == 3 and sorted(colours(train) + colours(val)) == sorted(everything)
    assert colours(ImageFolder(folders, 'test', 8)) == [(50, 9, 0, 0), (50, 0, 0, 1)]  # val is the held-out folder
    save(folders / 'test' / 'cat' / 'y.png', (99, 0, 0))
    save(folders / 'test' / 'ant' / 'y.png', (99, 9, 0))
    assert colours(ImageFolder(folders, 'test', 8)) == [(99, 9, 0, 0), (99, 0, 0, 1)]
    assert colours(ImageFolder(folders, 'val', 8)) == [(50, 9, 0, 0), (50, 0, 0, 1)]
    assert len(ImageFolder(folders, 'train', 8)) == 8


def test_the_middle_of_an_image_is_taken(folders):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    Image.fromarray(image).save(folders / 'val' / 'ant' / 'x.png')
    item = ImageFolder(folders, 'test', 10)[0]
    assert item['inputs'].shape == (3, 10, 10) and (item['inputs'][:, :, 1:-1] == 200).all()


def test_images_are_read_when_asked_for(folders):
    path = folders / 'val' / 'ant' / 'x.png'
    path.write_bytes(path.read_bytes()[:60])
    dataset = ImageFolder(folders, 'test', 8)
    dataset[1]
    with pytest.raises(UserError, match=f'^{path}: is not an image, or a damaged one$'):
        dataset[0]


def test_bad_folders(folders):
    save(folders / 'val' / 'dog' / 'x.png', (0, 0, 0))
    with pytest.raises(UserError, match='class dog is not among the 2'):
        ImageFolder(folders, 'test')
    (folders / 'train' / 'eel').mkdir()
    with pytest.raises(UserError, match='eel: no images of class eel'):
        ImageFolder(folders, 'train')
    with pytest.raises(UserError, match='needs the folders train and test'):
        ImageFolder(folders / 'train')


def test_tiny_imagenet(tmp_path):
    for name in ('n02', 'n01'):
        for number in range(3):
            save(tmp_path / 'train' / name / 'images' / f'{name}_{number}.JPEG', (0, 0, 0))
    save(tmp_path / 'val' / 'images' / 'val_0.JPEG', (0, 0, 0))
    table = tmp_path / 'val' / 'val_annotations.txt'
    table.write_text('val_0.JPEG\tn02\t0\t0\t62\t62\n')
    train, val, test = (TinyImageNet(tmp_path, split, val_size=2) for split in ('train', 'val', 'test'))
    assert len(train) == 4 and len(val) == 2
    assert {path.name: label for path, label in train.files + val.files} == {
        f'n0{label + 1}_{number}.JPEG': label for label in (0, 1) for number in range(3)
    }
    assert len(test) == 1 and test[0]['labels'] == 1 and test[0]['inputs'].shape == (3, 64, 64)
    table.write_text('val_0.JPEG\tn02\nval_1.JPEG\tn09\n')
    with pytest.raises(UserError, match='line 2'):
        TinyImageNet(tmp_path, 'test')
