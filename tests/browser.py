"""A headless Chromium that opens a page of ours in a frame and looks at it from outside."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def look_at(
    page: str, folder: Path, script: str, *, width: int, height: int = 900, dark: bool = False
) -> Any:
    """What `script` returns, as JSON: it sees `view` and `page` (window and document of the frame).

    It may await `settled()`, a while in which the browser draws, and `until(() => ...)`, seconds at most.
    Skips the test where there is no Chromium.
    """
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip("needs Chromium to look at the page")
    # the frame is measured from outside; the page's own policy would stop any script inside
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "harness.html").write_text(
        f"""<!doctype html><meta charset="utf-8">
        <iframe id="frame" style="border:0;width:{width}px;height:{height}px" src="page.html"></iframe>
        <pre id="found"></pre><script>
        document.getElementById("frame").onload = async (event) => {{
          const view = event.target.contentWindow, page = event.target.contentDocument;
          const settled = () => new Promise((done) => setTimeout(done, 200));
          const until = async (holds) => {{ for (let n = 0; n < 50 && !holds(); n++) await settled(); }};
          let found;
          try {{ found = await (async () => {{ {script} }})(); }} catch (error) {{ found = String(error); }}
          document.getElementById("found").textContent = JSON.stringify(found);
        }};
        </script>""",
        encoding="utf-8",
    )
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
        "--virtual-time-budget=20000", "--dump-dom",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        (folder / "harness.html").as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    assert found[1], "the page was not loaded in time"
    return json.loads(html.unescape(found[1]))
