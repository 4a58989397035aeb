"""The pruning command: ``analysis_struct.py CONFIG CHECKPOINT --pruning-ratio R --output-dir OUT``.

Importing it is light: nothing of torch or MMEngine is loaded before the arguments are known to be right and
the visible GPUs are chosen.
"""

from vadslim.slimming.cli import main

__all__ = ['main']
