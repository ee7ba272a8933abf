"""Stage 5: which strategy goes to production. Door of the package to the lake."""

import polars as pl

from qbawa.project import Project
from qbawa.storage.frames import frame
from qbawa.tournaments.stage import fit_steps


def promote(project: Project) -> pl.DataFrame:
    """New champions, if any: rows of the table `champions`."""
    from qbawa.optimize.champions import promotions  # scipy, which not every Dagster process needs

    lake = project.lake
    rows = frame(
        "champions",
        list(promotions(fit_steps(project), lake.read("ratings"), lake.read("champions"), project.config.champions)),
    )
    lake.merge("champions", rows)
    project.publish()
    return rows
