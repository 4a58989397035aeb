"""What is registered for a kind of module is found for its subclasses, and for what looks like it."""

from torch import nn

from vadslim.pruning.kinds import ByKind


def test_the_nearest_class_then_the_first_likeness():
    class Wide(nn.Linear):
        pass

    found: ByKind[str] = ByKind()
    found.register(lambda module: hasattr(module, 'weight'), 'has a weight')
    found.register(lambda module: True, 'is a module')
    found.register(nn.Linear, 'linear')
    assert found.of(nn.Linear(1, 1)) == found.of(Wide(1, 1)) == 'linear'
    found.register(Wide, 'wide')
    assert found.of(Wide(1, 1)) == 'wide'
    assert found.of(nn.Conv2d(1, 1, 1)) == 'has a weight'
    assert found.of(nn.ReLU()) == 'is a module'
    assert ByKind().of(nn.ReLU()) is None
