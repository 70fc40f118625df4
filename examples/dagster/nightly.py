"""A daily partitioned asset: the annotated rows of a day. Try it: dagster dev -f nightly.py."""

import os

import dagster as dg

import batchqa

DATA = os.environ.get("DATA", "/data")


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
    retry_policy=dg.RetryPolicy(max_retries=3, delay=300),
)
def answers(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    day = context.partition_key
    try:
        summary = batchqa.run(f"{DATA}/in/{day}/", f"{DATA}/out/{day}.parquet", on_status=context.log.info)
    except batchqa.BatchqaError as error:  # 74 I/O and 75 try again: a retry resumes
        raise dg.Failure(str(error), allow_retries=error.exit_code in (74, 75)) from error
    return dg.MaterializeResult(metadata={"rows": summary.rows, "fingerprint": summary.fingerprint})


defs = dg.Definitions(assets=[answers])
