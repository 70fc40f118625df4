"""From one bucket to another, with the credentials of Airflow's connection `aws_default`."""

from datetime import datetime

from airflow.sdk import DAG

from batchqa.airflow import BatchqaOperator

with DAG(
    "batchqa_object_store",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"bucket": "my-bucket", "model": "default"},
):
    BatchqaOperator(
        task_id="annotate",
        inputs="s3://{{ params.bucket }}/in/",
        output="s3://{{ params.bucket }}/out/answers.parquet",
        model="{{ params.model }}",
        conn_id="aws_default",
        retries=3,
    )
