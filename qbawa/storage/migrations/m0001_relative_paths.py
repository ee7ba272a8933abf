"""Paths of exported datasets become relative to the home, so that a home can be moved and its lake shared."""

import polars as pl

from qbawa.storage.lake import Lake


def migrate(lake: Lake) -> None:
    """0.1.0 wrote the whole path, `<home>/exports/<dataset>/<version>`; what stands before `exports` goes.

    A path that does not end in this way was put there by somebody else, and stays.
    """
    relative = pl.format("exports/{}/{}", "dataset", "version")
    rows = lake.read("datasets")
    lake.merge(
        "datasets",
        rows.filter(pl.col("path").str.ends_with(pl.concat_str(pl.lit("/"), relative))).with_columns(path=relative),
    )
