"""Sparse training under the Runner: levels linked by files. ``tools/main_imp_fillback.py`` is its door."""
