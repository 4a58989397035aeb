"""Staged training: one config, a list of stages, each a Runner run in a folder of its own, linked by files."""
