"""The replay matrix: which cells there are, and how they get their answers."""
