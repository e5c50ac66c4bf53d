"""Contracts between stages: pandera schemas and the split rule, as blocking asset checks.

Each asset names its checks and answers them in the same step, also when its result came out of
the store, so nothing downstream runs on data that breaks a contract.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from assets.inputs import TrainingInputs

SEPARATE = "No terminal and no labelled grid cell is in two splits."
LEARNED = "No report of the tested ground trains, validates or calibrates."

_FAILURES_SHOWN = 20
_TEXT_SHOWN = 400


def contract(asset: str, name: str = "schema", description: str = "") -> dg.AssetCheckSpec:
    """A blocking check that an asset answers itself."""
    return dg.AssetCheckSpec(
        name,
        asset=asset,
        blocking=True,
        description=description or "What is stored conforms to its pandera schema.",
    )


def conforms(data: Any, schema: Any, name: str = "schema") -> dg.AssetCheckResult:
    """Whether a table or an xarray data set conforms to its pandera schema."""
    from pandera.errors import SchemaError, SchemaErrors

    title = schema.__name__ if isinstance(schema, type) else str(schema.name or "schema")
    try:
        schema.validate(data, lazy=True)
    except SchemaErrors as errors:
        return _broken(name, title, _failures(errors))
    except SchemaError as error:
        return _broken(name, title, [str(error)])
    return dg.AssetCheckResult(passed=True, check_name=name, metadata={"schema": title})


def no_leak(
    violations: Mapping[str, int], name: str = "no_leak", kept: str = SEPARATE
) -> dg.AssetCheckResult:
    """Whether nothing breaks the separation of what is tested; `kept` says so in words."""
    return dg.AssetCheckResult(
        passed=not violations,
        check_name=name,
        description="; ".join(f"{rule}: {count}" for rule, count in violations.items()) or kept,
        metadata={f"violations/{rule}": int(count) for rule, count in violations.items()},
    )


def nothing_tested_is_learned(read: "TrainingInputs") -> dg.AssetCheckResult:
    """Whether no report that a stage learns from stands where its city is tested."""
    from ueloc_core.measurement.dataset import load_reports
    from ueloc_core.measurement.splits import (
        SEPARATED_BY,
        off_tested_ground,
        training_violations,
    )

    sets = [
        (of.city, load_reports(*of.folders("measurement_set"), SEPARATED_BY)) for of in read.cities
    ]
    kept = off_tested_ground(read.city, sets)  # as the stages read them
    learned = [(of.city, own) for of, own in zip(read.cities, kept, strict=True)]
    return no_leak(training_violations(read.city, learned), kept=LEARNED)


def _broken(name: str, title: str, failures: list[str]) -> dg.AssetCheckResult:
    shown = [text[:_TEXT_SHOWN] for text in failures[:_FAILURES_SHOWN]]
    return dg.AssetCheckResult(
        passed=False,
        check_name=name,
        description=f"{title} ({len(failures)} failures): {'; '.join(shown[:3])}",
        metadata={
            "schema": title,
            "failures": len(failures),
            "failure_cases": dg.MetadataValue.md("\n".join(f"- {text}" for text in shown)),
        },
    )


def _failures(errors: Any) -> list[str]:
    """One line a failed rule: tables list the values that fail, data sets a message."""
    if not hasattr(errors.failure_cases, "groupby"):
        return [str(error) for error in errors.schema_errors]
    cases = errors.failure_cases.fillna({"column": "table"})
    return [
        f"{column}: {rule}: found {', '.join(map(str, found.head(3)))} in {len(found)} rows"
        for (column, rule), found in cases.groupby(["column", "check"], sort=False).failure_case
    ]
