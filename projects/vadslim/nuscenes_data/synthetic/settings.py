"""What a synthetic dataset consists of."""

from __future__ import annotations

from dataclasses import dataclass

from vadslim.cli import UserError

from .catalogue import scene_names


@dataclass(frozen=True)
class Settings:
    """Everything the bytes of a dataset depend on.

    Attributes:
        scenes: how many of the ten official mini scenes.
        seed: of streets, traffic and noise.
        samples: keyframes per scene, 0.5 s apart.
        quality: JPEG quality of the images.

    Raises:
        UserError: a value is out of range.
    """

    scenes: int = 10
    seed: int = 0
    samples: int = 40
    quality: int = 25

    def __post_init__(self) -> None:
        try:
            scene_names(self.scenes)
        except ValueError as error:
            raise UserError(str(error)) from None
        for name, low, high in (('seed', 0, 2**32 - 1), ('samples', 2, 40), ('quality', 10, 95)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f'--{name} {getattr(self, name)}: allowed are {low} to {high}')
