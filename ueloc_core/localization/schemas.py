"""Contract of the training history."""

import numpy as np
import pandera.pandas as pa
from pandera.typing import Series

TERMS = ("total", "coarse", "fine", "physics", "nll")


class HistorySchema(pa.DataFrameModel):
    """Loss terms over epochs: one row an epoch, split and term."""

    epoch: Series[np.int64] = pa.Field(ge=0, description="Epoch, counted from 0")
    split: Series[str] = pa.Field(isin=("train", "validation"), description="Which reports")
    term: Series[str] = pa.Field(isin=TERMS, description="Term of the loss")
    value: Series[np.float64] = pa.Field(description="Mean over the split [nats]")

    class Config:
        """No column beyond these."""

        strict = True
