"""Numbers as people read them. Imports nothing but the standard library."""

import math


def human(number: float, unit: str = '') -> str:
    """A number with three significant digits and a decimal prefix: 39_865_999 -> '39.9 M'."""
    if not math.isfinite(number) or abs(number) < 1000:
        return f'{number:.4g} {unit}'.rstrip()
    for prefix in ('k', 'M', 'G', 'T'):
        number /= 1000
        if abs(number) < 999.5 or prefix == 'T':
            break
    return f'{number:.3g} {prefix}{unit}'
