"""Raw replies of judges read anew by the present parser: nothing is asked, nothing paid."""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from qbawa.judges.verdicts import reparse
from qbawa.storage.lake import Lake


def reread(lake: Lake, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Those rows of `verdicts` that are read otherwise now, as they are read.

    Soft preferences come from the log-probabilities that `calls` has kept.
    """

    def logprobs(keys: Sequence[str]) -> dict[str, list[Any]]:
        kept = pl.col("call_key").is_in(list(keys)) & pl.col("logprobs").is_not_null()
        return {
            key: json.loads(text) for key, text in lake.read("calls", ["call_key", "logprobs"], keep=kept).iter_rows()
        }

    return reparse(verdicts, logprobs)
