"""Contract of the training history."""

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

TERMS = ("total", "coarse", "fine", "physics", "nll")


class HistorySchema(pa.DataFrameModel):
    """Loss terms over epochs: one row an epoch, split and term.

    ``fine`` is the training loss's mixture NLL. ``nll`` is the score by which the best epoch is
    chosen: validation reports only, and there whatever the weights of the loss.
    """

    epoch: Series[np.int64] = pa.Field(ge=-1, description="Epoch, counted from 0; -1 before any")
    split: Series[str] = pa.Field(isin=("train", "validation"), description="Which reports")
    term: Series[str] = pa.Field(isin=TERMS, description="Term of the loss, or the score")
    value: Series[np.float64] = pa.Field(description="Mean over the split [nats]")

    @pa.dataframe_check(error="nll is a score of the validation reports")  # type: ignore[untyped-decorator]
    def score_is_of_validation(cls, table: pd.DataFrame) -> "pd.Series[bool]":  # noqa: N805
        """Whether each row keeps it."""
        return (table.term != "nll") | (table.split == "validation")

    class Config:
        """No column beyond these, no curve twice."""

        strict = True
        unique = ("epoch", "split", "term")
