"""What the machine has: how many CPUs this process may use, which CPU it is, how much memory.

Libraries count the host's cores; a container is often allowed fewer (onnxruntime issues 8313 and 29510).
All that is read here are small files of Linux; elsewhere the answers fall back to what Python knows.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

UNLIMITED_MEMORY = 2**60
"""cgroup v1 writes "no limit" as a number near 2**63 (in bytes); no machine has this much."""


def cpu_quota(root: Path = Path("/")) -> int:
    """How many CPUs this process may keep busy: at least 1.

    The smallest of the CPUs it may run on (affinity) and the cgroup quotas, v1 and v2, of its group and of
    all groups above. A quota of 1.5 CPUs counts as 2, one of 1.4 as 1. `root` is where /proc and /sys are.
    """
    allowed = float(_affinity())
    for group in _cgroups("cpu", root):
        quota = _quota_of(group)
        if quota is not None:
            allowed = min(allowed, quota)
    return max(1, int(allowed + 0.5))


def memory_limit(root: Path = Path("/")) -> int | None:
    """How many bytes of memory this process may use: the cgroup's limit or the machine's memory, or None."""
    limits = [_physical_memory(root)]
    for group in _cgroups("memory", root):
        limits += [_number(group / "memory.max"), _number(group / "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None and limit < UNLIMITED_MEMORY), default=None)


def cpu_model(root: Path = Path("/")) -> str:
    """The CPU's name as its maker writes it, or the architecture where that is not known."""
    return _cpuinfo(root).get("model name") or platform.processor() or platform.machine()


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """The CPU's features as the kernel names them (`avx512_vnni`, `amx_int8`); empty where not known."""
    info = _cpuinfo(root)
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def process_seconds() -> float:
    """How long ago this process began, in seconds; 0 where the system does not tell (proc_pid_stat(5))."""
    lines = _lines(Path("/proc/self/stat"))
    if not lines or not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    # the second field, the name in parentheses, can hold spaces: counting begins behind it
    start_ticks = int(lines[0].rpartition(")")[2].split()[19])
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK"), 0.0)


def peak_memory(process: int | None = None) -> int:
    """The sum of the peak resident memory, in bytes, of a process (this one) and those below it that live.

    Pages that processes share count for each of them. Where there is no /proc, this process's own peak.
    """
    if not Path("/proc/self/status").exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return sum(_peak_of(each) for each in _family(process or os.getpid()))


def _family(process: int) -> Iterator[int]:
    """A process and all below it; one that ends meanwhile is left out (proc_tid_children(5))."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for line in _lines(task):
            for child in line.split():
                yield from _family(int(child))


def _peak_of(process: int) -> int:
    # not getrusage: a process's counter there begins with the memory of the one that started it
    for line in _lines(Path(f"/proc/{process}/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def keep_large_allocations() -> None:
    """Have glibc keep what is freed, instead of returning it to the system (mallopt(3)).

    A training step allocates the same large tensors each time: to map and clear them anew took a quarter of
    the time on CPUs. Elsewhere than on glibc nothing changes.
    """
    mmap_threshold, trim_threshold, most = -3, -1, 2**31 - 1
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(mmap_threshold, most)
        libc.mallopt(trim_threshold, most)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroups(controller: str, root: Path) -> list[Path]:
    """The folders of this process's group and of every group above it that is mounted, v1 and v2.

    A line of /proc/self/cgroup is `id:controllers:path`; v2's has no controllers. One of
    /proc/self/mountinfo holds the group that is mounted (field 4), where (field 5), and after ` - ` the
    file system and its options (proc_pid_mountinfo(5)). Inside a container the mounted group is usually the
    container's own, so that `path` starts with it or is relative to it.
    """
    own_groups = _own_groups(controller, root)
    folders: list[Path] = []
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, system = left.split(), right.split()
        if len(fields) < 5 or len(system) < 3 or system[0] not in own_groups:
            continue
        if system[0] == "cgroup" and controller not in system[2].split(","):
            continue
        mounted, place = fields[3], root / fields[4].lstrip("/")
        own = own_groups[system[0]]
        inside = own[len(mounted) :] if mounted != "/" and own.startswith(mounted) else own
        folder = place / inside.strip("/")
        folders += [folder, *(above for above in folder.parents if above.is_relative_to(place))]
    return folders


def _own_groups(controller: str, root: Path) -> dict[str, str]:
    """This process's group by file system type: "cgroup" (v1, the controller's hierarchy), "cgroup2"."""
    groups = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            groups["cgroup2"] = path
        elif controller in controllers.split(","):
            groups["cgroup"] = path
    return groups


def _quota_of(group: Path) -> float | None:
    """A group's quota in CPUs: `cpu.max` holds "QUOTA PERIOD" or "max PERIOD" (v2), two files in v1."""
    lines = _lines(group / "cpu.max")
    if lines:
        quota, _, period = lines[0].partition(" ")
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None
    quota_us, period_us = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us is not None and period_us else None


def _physical_memory(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    entries: dict[str, str] = {}
    for line in _lines(root / "proc/cpuinfo"):
        if not line.strip():
            break
        name, _, value = line.partition(":")
        entries[name.strip()] = value.strip()
    return entries


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number in a one-line file; None where there is no such file, or it holds "max" or -1 (no limit)."""
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdigit() else None
