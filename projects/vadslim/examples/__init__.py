"""Worked examples, each a package of its own that registers what its configs name."""
