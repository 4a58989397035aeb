"""Packaging of vadslim; the requirements stand in requirements/*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """The lines of requirements/NAME.txt without comments; a missing file is an error."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in (line.partition('#')[0].strip() for line in lines) if line]


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    text = (ROOT / 'projects' / 'vadslim' / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError('projects/vadslim/__init__.py: no line "__version__ = \'...\'"')
    return found[1]


requirements('build')  # pyproject.toml states it too; the file has to be there
extras = {name: requirements(name) for name in ('vad', 'tests', 'optional')}

setup(
    name='vadslim',
    version=version(),
    description='Slim, sparsify and analyse driving networks (VAD) and other models that MMEngine trains',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    package_dir={'': 'projects'},
    packages=find_packages('projects'),
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={**extras, 'all': sorted({line for lines in extras.values() for line in lines})},
)
