"""The classifiers: their published sizes, MMEngine's modes, and the proof that each family can be slimmed."""

import pytest
import torch

from vadslim.analysis import find_example
from vadslim.classification import VGG, CIFARResNet, Classifier, MobileNet, ResNet, VisionTransformer
from vadslim.cli import UserError
from vadslim.pruning import StructuredPruner, check_group, find_groups, make_structure, resize
from vadslim.registry import MODELS

SMALL = (64, 64, 'M', 128, 128, 'M', 256, 256, 'M')


def params(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    'build,published',
    [
        # with the biases and batch norms that the papers round away (0.27 M, 0.46 M, 0.85 M)
        (lambda: CIFARResNet(20), 269_722),
        (lambda: CIFARResNet(32), 464_154),
        (lambda: CIFARResNet(56), 853_018),
        (lambda: CIFARResNet(20, shortcut='B'), 272_474),
        (lambda: ResNet(18), 11_173_962),
        (lambda: ResNet(50), 23_520_842),
        # torchvision's, for ImageNet
        (lambda: ResNet(18, 1000, 'imagenet'), 11_689_512),
        (lambda: ResNet(50, 1000, 'imagenet'), 25_557_032),
        (VGG, 14_728_266),
        # by hand: convolutions 1_145_408 and their norms 1_792, then (4096 + 1) 512 and (512 + 1) 10
        (lambda: VGG(SMALL, hidden=512, dropout=0.5), 3_249_994),
        (MobileNet, 3_217_226),
        (lambda: VisionTransformer('tiny', 100), 2_714_980),
        (lambda: VisionTransformer('small'), 21_342_346),
        (lambda: VisionTransformer('base'), 85_152_010),
        # a quarter of the weights of all layers that are half as wide on both sides
        (lambda: ResNet(18, width=0.5), 2_797_610),
        # timm's vit_small_patch16_224
        (lambda: VisionTransformer('small', 1000, image_size=224, patch_size=16), 22_050_664),
    ],
)
def test_parameters(build, published):
    with torch.device('meta'):
        model = build()
    assert params(model) == published


def test_prunable_weights_of_the_transformers():
    """By hand: 4 width^2 of an attention and 2 ratio width^2 of an MLP, in each layer."""
    for size, expected in (('tiny', 9 * (4 + 4) * 192**2), ('small', 12 * (4 + 8) * 384**2)):
        model = VisionTransformer(size)
        found = [p.numel() for name, p in model.named_parameters() if name.startswith('blocks') and p.dim() == 2]
        assert sum(found) == expected


@pytest.mark.parametrize('cfg', ['CIFARResNet', 'ResNet', 'VGG', 'MobileNet', 'VisionTransformer'])
def test_modes(cfg):
    torch.manual_seed(0)
    model = MODELS.build({'type': f'vadslim.{cfg}', 'num_classes': 7}).eval()
    data = {'inputs': torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), 'labels': torch.tensor([3, 6])}
    inputs = model.data_preprocessor(data)
    logits = model(**inputs)
    assert logits.shape == (2, 7)
    # the first signal is neither lost nor blown up on its way through the fresh network
    assert 1e-4 < (logits[0] - logits[1]).abs().max() < 1e3
    loss = model(**inputs, mode='loss')['loss']
    torch.testing.assert_close(loss, -logits.log_softmax(1)[[0, 1], [3, 6]].mean())
    results = model.test_step(data)
    torch.testing.assert_close(torch.stack([result['scores'] for result in results]), logits.softmax(1))
    assert [int(result['label']) for result in results] == [3, 6]
    with pytest.raises(ValueError, match='tensor, loss, predict'):
        model(**inputs, mode='losses')


def test_shortcut_of_the_paper():
    """Zeros come in on both sides of the old channels."""
    x = torch.randn(2, 16, 8, 8)
    y = CIFARResNet(20).layer2[0].downsample(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and not y[:, :8].any() and not y[:, 24:].any()


def test_transformer_is_told_positions():
    model = VisionTransformer('tiny', image_size=16)
    x = torch.randn(1, 3, 16, 16)
    moved = x.roll(4, 3)  # the same patches in another order
    assert not torch.allclose(model(x), model(moved), atol=1e-4)
    torch.nn.init.zeros_(model.pos_embed)
    torch.testing.assert_close(model(x), model(moved), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    'build,says',
    [
        (lambda: CIFARResNet(21), r'6 n \+ 2'),
        (lambda: CIFARResNet(shortcut='C'), 'choose from A, B'),
        (lambda: ResNet(19), 'choose from 18, 34, 50, 101'),
        (lambda: ResNet(stem='mnist'), 'choose from cifar, imagenet'),
        (lambda: VGG([]), 'at least one'),
        (lambda: VGG([8, 'P']), "'M' for pooling"),
        (lambda: VGG(hidden=0), 'hidden 0: neurons, at least one'),
        (lambda: VGG(hidden='512'), 'hidden 512: neurons'),
        (lambda: ResNet(width=0.01), 'at least 0.015625'),
        (lambda: VGG([8, *'MMMM'], image_size=8), '4 poolings leave nothing'),
        (lambda: MobileNet(width=0.01), 'at least 0.03125'),
        (lambda: VisionTransformer('huge'), 'choose from tiny, small, base'),
        (lambda: VisionTransformer(patch_size=5), 'do not fill'),
    ],
)
def test_mistakes(build, says):
    with pytest.raises(UserError, match=says):
        build()


# --- slimming -----------------------------------------------------------------------------------------------


def trained(model):
    """Norms as a training leaves them: a network of ones and zeros would hide what is confused."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 1 and tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.copy_(noise + 0.5 if name.endswith(('weight', 'running_var')) else noise - 0.5)
    return model.eval()


# how it is built, how many Groups can be slimmed
FAMILIES = {
    'resnet20': (lambda: CIFARResNet(20), 9 + 1),  # inside the blocks, and the 16 channels of the stream
    'resnet20, B': (lambda: CIFARResNet(20, shortcut='B'), 9 + 3),
    'resnet18': (lambda: ResNet(18, image_size=16), 8 + 4),
    'resnet50': (lambda: ResNet(50, image_size=16), 32 + 5),
    'vgg16': (VGG, 13),
    'custom vgg': (lambda: VGG([8, 'M', 12, 12], image_size=8), 3),
    'small vgg': (lambda: VGG([8, 8, 'M', 12, 'M'], hidden=20, dropout=0.5, image_size=8), 3 + 1),
    'mobilenet': (lambda: MobileNet(image_size=16), 14),
    'vit_tiny': (lambda: VisionTransformer('tiny', image_size=16), 1 + 9 * 2),
    'vit_small': (lambda: VisionTransformer('small', image_size=16), 1 + 12 * 2),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_slim_equals_masked(name):
    build, expected = FAMILIES[name]
    torch.manual_seed(0)
    model = trained(build())
    example = find_example(model, small=True)
    groups = find_groups(model, example.run)
    assert len([group for group in groups if group.on and not group.protected]) == expected
    kept = StructuredPruner(0.4, importance='Random').plan(model, groups)
    check_group(model, groups, kept, example.run)
    slim = resize(model, make_structure(model, groups, kept))
    assert params(slim) < 0.75 * params(model)
    assert slim.forward.__func__ is Classifier.forward
    assert example.run(slim).shape == (1, 10)


def test_heads_and_neurons():
    model = VisionTransformer('tiny', image_size=16)
    groups = {group.name: group for group in find_groups(model, find_example(model).run)}
    heads, neurons = groups['blocks.3.attn.heads'], groups['blocks.3.mlp.fc1.neurons']
    assert (heads.num_units, neurons.num_units) == (3, 384)
    slim = resize(model, make_structure(model, list(groups.values()), {heads.name: [0, 2], neurons.name: range(300)}))
    assert slim.blocks[3].attn.qkv.weight.shape == (3 * 128, 192)
    assert slim.blocks[3].mlp.fc2.weight.shape == (192, 300)


def test_example_is_of_the_networks_size():
    example = find_example(ResNet(18, stem='imagenet'))
    assert example.label == '3 x 224 x 224, batch 1'
    counted = find_example(CIFARResNet(20)).count(CIFARResNet(20))
    assert 40.5e6 < counted.macs < 41.0e6  # the 41 M multiply-adds that are quoted of ResNet-20
