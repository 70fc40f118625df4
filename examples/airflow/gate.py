"""A model must reach an F1 on labelled rows before it annotates the rest; exit code 3 stops the DAG."""

from datetime import datetime

from airflow.sdk import DAG

from batchqa.airflow import BatchqaEvaluateOperator, BatchqaOperator

with DAG(
    "batchqa_gate",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"data": "/data", "model": "default", "min_f1": 80.0},
):
    score = BatchqaEvaluateOperator(
        task_id="score",
        predictions="{{ params.data }}/labelled.jsonl",
        options={
            "model": "{{ params.model }}",
            "annotated": "{{ params.data }}/labelled.annotated.parquet",
            "min_f1": "{{ params.min_f1 }}",
        },
        retries=2,
    )
    annotate = BatchqaOperator(
        task_id="annotate",
        inputs="{{ params.data }}/rows.jsonl",
        output="{{ params.data }}/answers.parquet",
        model="{{ params.model }}",
        retries=2,
    )
    score >> annotate
