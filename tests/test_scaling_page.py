"""docs/scaling.md is written from kept figures."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs the extra `report` (matplotlib)")
from benchmarks import scaling


def _point(series: str, model: str, rows: int, *, predicted: bool) -> scaling.Point:
    return scaling.Point(
        series=series,
        model=model,
        model_mib=22.0,
        rows=rows,
        context_words=scaling.WORDS,
        question_words=10,
        windows=rows,
        startup_seconds=1.0,
        working_seconds=rows / 100,
        process_seconds=rows / 100 + 1.5,
        cpu_seconds=rows / 50,
        memory_mib=400.0,
        input_bytes=700 * rows,
        output_bytes=800 * rows,
        cores=4,
        predicted={
            "windows": rows,
            "seconds": 1.1 * (1 + rows / 100),
            "memory_mib": 380.0,
            "took_seconds": 5.0,
        }
        if predicted
        else None,
    )


def test_every_place_of_the_page_is_filled_from_kept_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "scaling.md"
    page.write_text(scaling.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(scaling, "PAGE", page)
    points = [
        *(_point("rows", scaling.PACKAGE, rows, predicted=True) for rows in (100, 1000)),
        *(
            _point(series, scaling.PACKAGE, 200, predicted=False)
            for series in ("context", "question", "model")
        ),
    ]
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"points": [asdict(point) for point in points]}), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["scaling.py", "--from", str(kept), "--write-docs"])
    assert scaling.main() == 0
    first = page.read_text(encoding="utf-8")
    places = re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", first, re.DOTALL)
    assert len(places) == first.count("<!-- begin ") == 7
    assert all(text.strip() for _, text in places)
    # 10 ms on each of the 4 cores for each of 10 ** 9 rows
    assert "40.00 | 11,111 |" in dict(places)["billion"]
    assert "seconds: median 10%" in dict(places)["planner"]
    assert (tmp_path / "kept.svg").exists()
    scaling.main()
    assert page.read_text(encoding="utf-8") == first
