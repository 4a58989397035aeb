"""Small image classifiers and their data, for sparse training; importing it registers them.

Every dataset gives uint8 images and keeps its test images for the test: validation images come out of the training
images. Normalisation and augmentation are done in one place, ``ImagePreprocessor``.
"""

from .accuracy import Accuracy
from .cifar import CIFAR10, CIFAR100
from .classifier import Classifier
from .digits import Digits
from .folders import ImageFolder, TinyImageNet
from .images import split_off
from .mobilenet import MobileNet
from .preprocessor import STATISTICS, ImagePreprocessor
from .pretrained import Loaded, load_pretrained
from .resnet import CIFARResNet, ResNet
from .vgg import VGG
from .vit import VisionTransformer

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'STATISTICS',
    'VGG',
    'Accuracy',
    'CIFARResNet',
    'Classifier',
    'Digits',
    'ImageFolder',
    'ImagePreprocessor',
    'Loaded',
    'MobileNet',
    'ResNet',
    'TinyImageNet',
    'VisionTransformer',
    'load_pretrained',
    'split_off',
]
