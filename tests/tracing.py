"""What a program does to its surroundings, seen by strace: files that it writes, sockets that it opens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CHANGES = "openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"

_OPENS = re.compile(
    r"(?:openat|creat)\((?:\S+?<(?P<at>[^>]*)>, )?\"(?P<path>[^\"]*)\".*?(?P<flags>O_[A-Z_|]+)"
)
_NAMED = re.compile(r"(?:AT_FDCWD|\d+)<(?P<at>[^>]*)>, \"(?P<below>[^\"]*)\"|\"(?P<path>[^\"]*)\"")


def why_not() -> str | None:
    """Why strace cannot be used here, or None."""
    if not shutil.which("strace"):
        return "strace is not installed"
    probe = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True)
    return None if probe.returncode == 0 else "strace may not trace here"


def traced(command: list[str], log: Path) -> list[str]:
    """The command under strace, its threads and children too; `log` is for `written` and `sockets`."""
    return ["strace", "-f", "-qq", "-y", "-e", f"trace=%network,{CHANGES}", "-o", str(log), *command]


def clean_environment(home: Path | None, temporary: Path, **more: str) -> Mapping[str, str]:
    """Only what a program needs. A CI's variables would switch some libraries' telemetry off."""
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    return environment | ({"HOME": str(home)} if home else {}) | more


def written(log: Path, cwd: Path) -> set[Path]:
    """All that was opened to be written, made, or renamed to."""
    found = set()
    for line in _calls(log):
        if opened := _OPENS.search(line):
            if re.search("O_WRONLY|O_RDWR|O_CREAT", opened["flags"]) or "creat(" in line:
                found.add(Path(os.path.normpath(Path(opened["at"] or cwd) / opened["path"])))
        elif re.search(r"\b(mkdir|rename|link|symlink)", line):
            for name in _NAMED.finditer(line):
                found.add(
                    Path(os.path.normpath(Path(name["at"] or cwd) / (name["below"] or name["path"] or "")))
                )
    return {path for path in found if not path.is_relative_to("/dev")}


def sockets(log: Path) -> list[str]:
    """The calls by which a program reaches out: sockets, but for pairs, and what is connected or bound.

    Two that reach nobody are left out: the system's cache of its users, which Python asks for a home folder,
    and a probe of urllib3's whether there is IPv6, which is bound to the loopback and closed.
    """
    calls = [
        line for line in _calls(log, failed=True) if re.search(r"\b(socket|connect|bind|sendto)\(", line)
    ]
    local = re.compile(r"socket\(AF_UNIX|/nscd/socket|socket\(AF_INET6.*IPPROTO_IP\)|bind\(.*\"::1\"")
    return [line for line in calls if not local.search(line)]


def _calls(log: Path, *, failed: bool = False) -> list[str]:
    """The traced calls; one that another thread's interrupted is put together again."""
    begun: dict[str, str] = {}
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        process, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>")
            continue
        if "resumed>" in call:
            call = begun.pop(process, "") + call.partition("resumed>")[2]
        if failed or " = -1 " not in call:
            calls.append(call)
    return calls
