"""Weights from files: what fits is copied and nothing else, and mistakes are one line."""

import json
import sys

import pytest
import torch

from vadslim.checkpoint import CheckpointError
from vadslim.classification import VGG, CIFARResNet, ResNet, VisionTransformer, load_pretrained
from vadslim.cli import UserError


def trained(build, std=0.06):
    """A network whose weights no initialisation gives."""
    model = build()
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(std * torch.randn(value.shape, generator=generator))
    return model


def check(model, before, source, loaded):
    """Exactly what is said to be copied has the file's values, the rest its own."""
    assert set(loaded.copied) | set(loaded.left) == set(before) and not set(loaded.copied) & set(loaded.left)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source[name] if name in loaded.copied else before[name]), name


def load(model, state, path, **options):
    torch.save(state, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_pretrained(model, path, **options)
    return before, loaded


def test_a_resnet_of_torchvision(tmp_path):
    source = trained(lambda: ResNet(18, 1000, 'imagenet')).state_dict()
    model = ResNet(18)
    before, loaded = load(model, source, tmp_path / 'resnet18.pth')
    assert loaded.left == {
        'conv1.weight': '64 x 3 x 3 x 3, in the file 64 x 3 x 7 x 7',
        'fc.weight': '10 x 512, in the file 1000 x 512',
        'fc.bias': '10, in the file 1000',
    }
    assert loaded.unused == []
    check(model, before, source, loaded)
    assert str(loaded).startswith('119 of 122 tensors copied; left as they were: conv1.weight (64 x 3 x 3 x 3, in')


@pytest.mark.parametrize('key', [None, 'model'])
def test_a_transformer_of_timm(key, tmp_path):
    """vit_small_patch16_224: 148 of its 152 tensors fit; the names are timm's."""
    source = trained(lambda: VisionTransformer('small', 1000, image_size=224, patch_size=16)).state_dict()
    model = VisionTransformer('small')
    before, loaded = load(model, {key: source} if key else source, tmp_path / 'vit.pth')
    assert len(loaded.copied) == 148
    assert list(loaded.left) == ['pos_embed', 'patch_embed.proj.weight', 'head.weight', 'head.bias']
    check(model, before, source, loaded)


def test_a_checkpoint_of_mmengine(tmp_path):
    source = trained(lambda: CIFARResNet(8, 100)).state_dict()
    state = {f'module.{name}': value.half() for name, value in source.items()}
    model = CIFARResNet(8)
    content = {'state_dict': {**state, 'module.teacher.weight': torch.ones(1)}, 'meta': {'epoch': 3}, 'optimizer': {}}
    before, loaded = load(model, content, tmp_path / 'epoch_3.pth')
    assert list(loaded.left) == ['fc.weight', 'fc.bias'] and loaded.unused == ['teacher.weight']
    check(model, before, {name: value.half().to(value.dtype) for name, value in source.items()}, loaded)
    assert str(loaded).endswith('; the file also has teacher.weight')


def test_random_weights_are_refused(tmp_path):
    torch.manual_seed(0)
    model, source = (VisionTransformer('tiny', image_size=16) for _ in range(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    with pytest.raises(UserError, match=r'random weights: blocks.0.attn.qkv.weight deviates by 0.020, .* least 0.05$'):
        load_pretrained(model, tmp_path / 'vit.pth')
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert load_pretrained(model, tmp_path / 'vit.pth', trained_std=0).left == {}
    source.blocks[0].attn.qkv.weight.data.fill_(torch.nan)
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    with pytest.raises(UserError, match='random weights'):
        load_pretrained(model, tmp_path / 'vit.pth')


def test_mistakes_are_one_line(tmp_path):
    model, path = CIFARResNet(8), tmp_path / 'a.pth'
    torch.save(VGG([8]).state_dict(), path)
    with pytest.raises(UserError) as error:
        load_pretrained(model, path)
    assert str(error.value) == (
        f'{path}: no tensor fits by name and shape: the network has conv1.weight (16 x 3 x 3 x 3), bn1.weight (16), '
        'bn1.bias (16), bn1.running_mean (16) and 40 more, the file features.0.weight (8 x 3 x 3 x 3), '
        'features.0.bias (8), features.1.weight (8), features.1.bias (8) and 5 more'
    )
    torch.save({'meta': {}, 'epoch': 3}, path)
    with pytest.raises(UserError, match='holds no state dict; its keys are meta, epoch'):
        load_pretrained(model, path)
    for name in ('none.pth', 'none.safetensors'):
        with pytest.raises(CheckpointError, match='no such file'):
            load_pretrained(model, tmp_path / name)


# --- safetensors --------------------------------------------------------------------------------------------


def write_safetensors(state, path):
    """The format, by hand: the header's length, the header, the bytes."""
    header, data = {}, b''
    for name, value in state.items():
        part = value.contiguous().numpy().tobytes()
        kind = {torch.float32: 'F32', torch.int64: 'I64'}[value.dtype]
        header[name] = {'dtype': kind, 'shape': list(value.shape), 'data_offsets': [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, 'little') + text + data)


def test_safetensors(tmp_path):
    pytest.importorskip('safetensors')
    model, source, path = CIFARResNet(8), trained(lambda: CIFARResNet(8)).state_dict(), tmp_path / 'a.safetensors'
    write_safetensors(source, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_pretrained(model, path)
    assert loaded.left == {}
    check(model, before, source, loaded)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match='is no safetensors file, or a damaged one'):
        load_pretrained(model, path)


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    (tmp_path / 'a.safetensors').write_bytes(b'x')
    with pytest.raises(UserError, match=r'needs safetensors \(pip install safetensors\)$'):
        load_pretrained(CIFARResNet(8), tmp_path / 'a.safetensors')
