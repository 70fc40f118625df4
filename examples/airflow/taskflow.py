"""Without the operator: `batchqa.run` in a task. Its summary goes to XCom as a dict."""

from datetime import datetime

from airflow.sdk import DAG, task

with DAG(
    "batchqa_taskflow",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={"data": "/data", "model": "default", "python": "/opt/batchqa/bin/python"},
):

    @task.external_python(python="{{ params.python }}", retries=3)
    def annotate(data: str, model: str) -> dict:
        import batchqa

        return batchqa.run(f"{data}/rows.jsonl", f"{data}/answers.parquet", model=model).to_dict()

    @task
    def report(summary: dict) -> None:
        print(f"{summary['answered']} of {summary['rows']} rows are answered")

    report(annotate("{{ params.data }}", "{{ params.model }}"))
