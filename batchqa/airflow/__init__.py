"""Airflow: `from batchqa.airflow import BatchqaOperator`. Needs Airflow 3 (extra `airflow`).

Airflow's worker loads this package to find the operators, and nothing else of batchqa: each command runs in a
process of its own, which may be another environment's (`python=`). So `pip install --no-deps batchqa` is
enough in Airflow's environment where batchqa's own dependencies must stay out of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchqa.version import VERSION

if TYPE_CHECKING:
    from batchqa.airflow.operators import BatchqaEvaluateOperator, BatchqaFinalizeOperator, BatchqaOperator

__all__ = ["BatchqaEvaluateOperator", "BatchqaFinalizeOperator", "BatchqaOperator", "get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """What `airflow providers list` shows; Airflow finds it by the entry point `apache_airflow_provider`."""
    return {
        "package-name": "batchqa",
        "name": "batchqa",
        "description": "Annotates files of (context, question) rows with the answer that the context holds.",
        "versions": [VERSION],
    }


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from batchqa.airflow import operators

    return getattr(operators, name)
