"""Raw replies of judges read anew by the present parser: nothing is asked, nothing paid."""

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from qbawa.engine.logprobs import clean_logprobs
from qbawa.judges.verdicts import reparse
from qbawa.storage.lake import Lake


def reread(lake: Lake, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Those rows of `verdicts` that are read otherwise now, as they are read.

    Soft preferences come from the log-probabilities that `calls` has kept.
    """

    def logprobs(keys: Sequence[str]) -> dict[str, list[Any]]:
        kept = pl.col("call_key").is_in(list(keys)) & pl.col("logprobs").is_not_null()
        rows = lake.read("calls", ["call_key", "logprobs"], keep=kept).iter_rows()
        return {key: found for key, text in rows if (found := clean_logprobs(json.loads(text)))}

    return reparse(verdicts, logprobs)
