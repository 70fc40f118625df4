"""What the machine has, read from small fake /proc and /sys trees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchqa.machine import cpu_flags, cpu_model, cpu_quota, memory_limit, peak_memory


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def version_2(root: Path, own: str, **files: str) -> Path:
    """A cgroup v2 tree whose root is mounted at /sys/fs/cgroup; `files` maps group folder to its cpu.max."""
    return write(
        root,
        {
            "proc/self/cgroup": f"0::{own}\n",
            "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n",
            **{f"sys/fs/cgroup/{group}/cpu.max": text for group, text in files.items()},
        },
    )


def version_1(root: Path, own: str, mounted: str, quota: str, period: str = "100000") -> Path:
    """A cgroup v1 tree: the group `mounted` stands at the mount point of the cpu controller."""
    return write(
        root,
        {
            "proc/self/cgroup": f"5:memory:/elsewhere\n3:cpu,cpuacct:{own}\n0::/\n",
            "proc/self/mountinfo": (
                f"40 30 0:35 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                f"41 30 0:36 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            ),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": quota,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": period,
        },
    )


def test_without_cgroups_the_affinity_is_the_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == 8


def test_a_version_2_quota_limits_the_cpus(tmp_path: Path) -> None:
    assert cpu_quota(version_2(tmp_path, "/job", job="300000 100000\n")) == 3


def test_the_smallest_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/pod/box", **{"pod": "200000 100000\n", "pod/box": "600000 100000\n"})
    assert cpu_quota(root) == 2


def test_a_quota_of_max_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(version_2(tmp_path, "/job", job="max 100000\n")) == 8


@pytest.mark.parametrize(("quota", "cpus"), [("10000", 1), ("140000", 1), ("150000", 2), ("9900000", 8)])
def test_a_fractional_quota_is_rounded_and_never_below_one_nor_above_the_affinity(
    tmp_path: Path, quota: str, cpus: int
) -> None:
    assert cpu_quota(version_2(tmp_path, "/job", job=f"{quota} 100000\n")) == cpus


def test_a_version_1_quota_is_found_where_the_container_s_group_is_mounted(tmp_path: Path) -> None:
    assert cpu_quota(version_1(tmp_path, "/docker/abc", "/docker/abc", "400000\n")) == 4


def test_a_version_1_quota_of_minus_one_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(version_1(tmp_path, "/", "/", "-1\n")) == 8


def test_a_period_of_zero_and_unreadable_numbers_are_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(version_1(tmp_path / "one", "/", "/", "400000\n", "0\n")) == 8
    assert cpu_quota(version_2(tmp_path / "two", "/job", job="nonsense\n")) == 8


def test_the_memory_limit_is_the_cgroup_s_where_that_is_less_than_the_machine_s(tmp_path: Path) -> None:
    root = version_2(tmp_path, "/job")
    write(root, {"proc/meminfo": "MemTotal:  16777216 kB\n", "sys/fs/cgroup/job/memory.max": "max\n"})
    assert memory_limit(root) == 16 * 2**30
    write(root, {"sys/fs/cgroup/job/memory.max": "1073741824\n"})
    assert memory_limit(root) == 2**30


def test_version_1_s_way_of_writing_no_memory_limit_is_understood(tmp_path: Path) -> None:
    root = version_1(tmp_path, "/", "/", "-1\n")
    write(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert memory_limit(root) is None


def test_the_first_processor_s_name_and_flags_are_read(tmp_path: Path) -> None:
    first = "processor\t: 0\nmodel name\t: Fast One\nflags\t\t: avx2 avx512_vnni\n"
    text = first + "\nprocessor\t: 1\nmodel name\t: Slow\n"
    root = write(tmp_path, {"proc/cpuinfo": text})
    assert cpu_model(root) == "Fast One"
    assert cpu_flags(root) == {"avx2", "avx512_vnni"}


def test_an_unknown_processor_has_a_name_and_no_flags(tmp_path: Path) -> None:
    assert cpu_model(tmp_path)
    assert cpu_flags(tmp_path) == frozenset()


def test_the_peak_memory_of_a_process_holds_that_of_its_children() -> None:
    before = peak_memory()
    program = "held = bytearray(100 * 2**20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_memory() - before > 100 * 2**20
        assert peak_memory(child.pid) > 100 * 2**20
        child.communicate(b"\n")
    assert peak_memory() - before < 100 * 2**20
