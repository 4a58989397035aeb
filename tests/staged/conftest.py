"""What all tests of staged runs share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope='module', autouse=True)
def plain_configs() -> Iterator[None]:
    """MMEngine lays a config out anew for each checkpoint, for a second or so; the text means the same without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
        yield
