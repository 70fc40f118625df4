"""A flow that annotates the rows of a day. Try it: python nightly.py 2026-03-01."""

import os
import sys

from prefect import flow, task

import batchqa

DATA = os.environ.get("DATA", "/data")


def is_worth_another_try(_task, _run, state) -> bool:
    """74 I/O and 75 try again: a retry resumes."""
    error = state.result(raise_on_failure=False)
    return getattr(error, "exit_code", None) in (74, 75)


@task(retries=3, retry_delay_seconds=300, retry_condition_fn=is_worth_another_try)
def annotate(day: str) -> dict:
    return batchqa.run(f"{DATA}/in/{day}/", f"{DATA}/out/{day}.parquet").to_dict()


@flow
def nightly(day: str) -> dict:
    return annotate(day)


if __name__ == "__main__":
    print(nightly(sys.argv[1])["rows"], "rows")
