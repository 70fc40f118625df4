"""`batchqa run`, from file to file; `--model` is a bundle, `--batch` the budget in tokens."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from contender import arguments, report

options = arguments()
with tempfile.TemporaryDirectory() as folder:
    output = str(Path(folder, "out.parquet"))
    command = [sys.executable, "-m", "batchqa", "run", str(options.rows), "-o", output, "--quiet"]
    command += [
        "--model",
        str(options.model),
        "--batch-tokens",
        str(options.batch),
        "--device",
        options.device,
    ]
    command += ["--threads", str(options.threads), "--engine", options.engine]
    if options.precision in (
        "int8",
        "fp16",
    ):  # else the fp32 variant in the engine's arithmetic
        command += ["--variant", options.precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
summary = json.loads(done.stdout.splitlines()[-1])
report(summary["rows"], summary["seconds"] - summary["startup_seconds"], summary["startup_seconds"])
