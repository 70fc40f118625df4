"""Every night the rows of the day before; a night without rows is skipped.

A task that was killed, or met a full disk or a network that failed, is tried again and resumes from the parts
that it has committed. Wrong input, a changed job or too many row errors fail at once.
"""

from datetime import datetime, timedelta

from airflow.sdk import DAG

from batchqa.airflow import BatchqaOperator

with DAG(
    "batchqa_nightly",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={"data": "/data", "model": "default"},
):
    BatchqaOperator(
        task_id="annotate",
        inputs="{{ params.data }}/in/{{ ds }}/*.jsonl",
        output="{{ params.data }}/out/{{ ds }}.parquet",
        model="{{ params.model }}",
        options={"if_no_input": "skip", "max_errors": "0.1%", "part_rows": 20_000},
    )
