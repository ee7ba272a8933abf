"""Stages 1 and 2: the replay set, strategies, and the matrix of their answers. Door: `stage.py`."""
