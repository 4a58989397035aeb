"""How a network's images were normalised, read out of a config's text, which is never executed.

MMEngine's checkpoints hold their config as Python text (``model.data_preprocessor``), those of mmcv 1 too
(``dict(type='NormalizeMultiviewImage', ...)`` in a pipeline, ``img_norm_cfg``).
"""

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 2_000_000  # characters of a config text
SWAPS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')


@dataclass(frozen=True)
class ImageNorm:
    """``(image - mean) / std`` per channel, after the channels were swapped if ``swapped``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    swapped: bool

    @classmethod
    def of(cls, settings: Any, swapped: bool = False) -> 'ImageNorm | None':
        """From a dict with ``mean``, ``std`` and one of ``bgr_to_rgb``, ``rgb_to_bgr``, ``to_rgb``.

        Args:
            settings: anything; of any other than such a dict there is no ImageNorm.
            swapped: where the dict does not say.
        """
        if not isinstance(settings, Mapping):
            return None
        mean, std = settings.get('mean'), settings.get('std')
        if not (_are_numbers(mean) and _are_numbers(std) and len(mean) == len(std)):
            return None
        said = [settings[key] for key in SWAPS if isinstance(settings.get(key), bool)]
        return cls(tuple(map(float, mean)), tuple(map(float, std)), any(said) if said else swapped)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which :meth:`of` reads."""
        return {'mean': list(self.mean), 'std': list(self.std), 'bgr_to_rgb': self.swapped}

    def is_close(self, other: 'ImageNorm') -> bool:
        """Whether both give the same images but for rounding."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=False)
        same = len(self.mean) == len(other.mean) and all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)
        return same and self.swapped == other.swapped


def norm_of_config(config: Mapping[str, Any]) -> ImageNorm | None:
    """The normalisation that a config asks for, MMEngine's or mmcv 1's; None if it does not say."""
    for settings in preprocessor_places(config).values():
        return ImageNorm.of(settings)
    data = config.get('data')
    data = data if isinstance(data, Mapping) else {}
    for part in (data.get('train'), config.get('train_pipeline'), data.get('test'), config.get('test_pipeline')):
        for step in _dicts(part):
            if 'Normalize' in str(step.get('type')):
                norm = ImageNorm.of(step, swapped=True)  # as mmcv 1's transforms have it
                if norm is not None:
                    return norm
    return ImageNorm.of(config.get('img_norm_cfg'), swapped=True)


def preprocessor_places(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Where a config has a data_preprocessor that normalises images: dotted key -> settings; the first one counts."""
    places = {}
    for place in ('model.data_preprocessor', 'model.architecture.data_preprocessor', 'data_preprocessor'):
        settings: Any = config
        for key in place.split('.'):
            settings = settings.get(key) if isinstance(settings, Mapping) else None
        if ImageNorm.of(settings) is not None:
            places[place] = settings
    return places


def norm_of_text(text: Any) -> ImageNorm | None:
    """The same of a config's Python text. Literals and ``dict(...)`` are read, all else is passed over."""
    if not isinstance(text, str) or len(text) > LONGEST:
        return None
    try:
        body = ast.parse(text).body
        values = {
            node.targets[0].id: _data(node.value)
            for node in body
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        }
        return norm_of_config(values)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # not a config, or a hostile one
        return None


def _data(node: ast.expr) -> Any:
    """A literal's value; None for whatever is not plain data."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_data(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {key.value: _data(v) for key, v in zip(node.keys, node.values) if isinstance(key, ast.Constant)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {keyword.arg: _data(keyword.value) for keyword in node.keywords if keyword.arg is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return -node.operand.value if isinstance(node.operand.value, int | float) else None
    return None


def _dicts(item: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(item, Mapping):
        yield item
        item = list(item.values())
    for part in item if isinstance(item, list | tuple) else ():
        yield from _dicts(part)


def _are_numbers(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and 0 < len(value) <= 16
        and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    )
