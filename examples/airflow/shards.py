"""One large job on four workers: each does its share of the parts, and the last task publishes the output."""

from datetime import datetime

from airflow.sdk import DAG

from batchqa.airflow import BatchqaFinalizeOperator, BatchqaOperator

SHARDS = 4

with DAG(
    "batchqa_shards",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 3},
    params={"data": "/data", "model": "default"},
):
    shards = BatchqaOperator.partial(
        task_id="shard",
        inputs="{{ params.data }}/rows.jsonl",
        output="{{ params.data }}/answers.parquet",
        model="{{ params.model }}",
        map_index_template="{{ task.options['shard'] }}",
    ).expand(options=[{"shard": f"{number}/{SHARDS}"} for number in range(SHARDS)])
    finalize = BatchqaFinalizeOperator(task_id="finalize", output="{{ params.data }}/answers.parquet")
    shards >> finalize
