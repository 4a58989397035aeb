"""vadslim: slim, sparsify and analyse driving networks under MMEngine. Importing it is light (no torch)."""

__version__ = '0.1.0'
