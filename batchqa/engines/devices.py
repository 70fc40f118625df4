"""Which devices this machine has for models, and why a GPU cannot be used: for `run`, `auto` and `doctor`.

What is asked before a model is loaded reads only the names of files; `look_for_cuda` asks the driver and the
libraries, for a message or a report.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchqa.bundle import Variant
from batchqa.machine import cpu_flags
from batchqa.settings import MachineSettings
from batchqa.telemetry import import_onnxruntime

CUDA = "CUDAExecutionProvider"
"""onnxruntime's name for CUDA."""

EXACT_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Features of x86 processors, as the kernel names them, that add products of bytes in 32 bits (VNNI, AMX)."""


def devices_of(machine: MachineSettings) -> list[str]:
    """The devices that `--device` means, one by one; a GPU that is there counts, whether it works or not."""
    kind, _, numbers = machine.device.partition(":")
    if kind == "auto":
        return ["cuda:0"] if machine.engine != "openvino" and has_cuda_device() else ["cpu"]
    if kind == "all":
        return cuda_devices()
    return ["cpu"] if kind == "cpu" else [f"cuda:{number}" for number in (numbers or "0").split(",")]


def cuda_devices() -> list[str]:
    """The CUDA devices of this machine, by the names that `--device` takes; at least the first one."""
    count = len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
    return [f"cuda:{number}" for number in range(max(count, 1))]


def has_cuda_device() -> bool:
    """Whether this machine has a CUDA device that is not hidden from this process, usable or not."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/nvidia0").exists()


def cuda_is_available() -> bool:
    """Whether there is a CUDA device and this onnxruntime was built for it."""
    return has_cuda_device() and has_cuda_provider()


def has_cuda_provider() -> bool:
    """Whether this onnxruntime was built for CUDA."""
    return CUDA in import_onnxruntime().get_available_providers()


@dataclass(frozen=True, slots=True)
class Cuda:
    """What there is of CUDA. `serves`: the newest CUDA (major, minor) of the driver, None without a driver.

    `built_for` is the CUDA that onnxruntime is built for ("" where it does not say), `libraries` are NVIDIA's
    from pip with their versions, `missing` those that onnxruntime needs and nobody has.
    """

    serves: tuple[int, int] | None
    driver: str = "unknown"
    devices: Sequence[str] = ()
    has_provider: bool = False
    built_for: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()

    def driver_obstacle(self) -> tuple[str, str] | None:
        """Why onnxruntime cannot use the driver, as far as that can be seen, and what to do about it."""
        if self.serves is None:
            return "no NVIDIA driver was found", "install one"
        if not self.has_provider:
            return "this onnxruntime has no CUDA", "install onnxruntime-gpu"
        if self.built_for and int(self.built_for.partition(".")[0]) > self.serves[0]:
            return (
                f"this onnxruntime is built for CUDA {self.built_for}, which is newer than the driver",
                "update the driver, or pip install 'onnxruntime-gpu<1.27' (built for CUDA 12)",
            )
        return None

    def library_obstacle(self) -> tuple[str, str] | None:
        """Which libraries keep onnxruntime from using a GPU, and what to do about it."""
        if not self.missing:
            return None
        return f"not found: {', '.join(self.missing)}", "pip install 'batchqa[cuda]' brings them"


def look_for_cuda() -> Cuda:
    """Ask the driver and onnxruntime, and look for the libraries. Raises ImportError without onnxruntime."""
    found = _driver()
    if found is None:
        return Cuda(None)
    onnxruntime = import_onnxruntime()
    built_for = str(getattr(onnxruntime, "cuda_version", "") or "")
    return Cuda(
        serves=found[0],
        driver=_driver_release() or "unknown",
        devices=found[1],
        has_provider=has_cuda_provider(),
        built_for=built_for,
        libraries=_pip_libraries(),
        missing=_missing_libraries(built_for.partition(".")[0]),
    )


def why_not_cuda() -> str:
    """The obstacle, for the end of an error's sentence; "" where none is seen."""
    cuda = look_for_cuda()
    obstacle = cuda.driver_obstacle() or cuda.library_obstacle()
    return f" ({obstacle[0]}: {obstacle[1]})" if obstacle else ""


def products_overflow(flags: frozenset[str]) -> bool:
    """Whether a CPU with these features adds neighbouring products of bytes in 16 bits, which saturates.

    x86 without VNNI and AMX does (`vpmaddubsw`), Arm does not. Where the features are not known: as without.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not flags & EXACT_INT8


def int8_warning(variant: Variant, flags: frozenset[str] | None = None) -> str | None:
    """What to know before a variant runs on a CPU with these features (None: this machine's)."""
    flags = cpu_flags() if flags is None else flags
    if variant.precision != "int8" or variant.weight_bits in (0, 7) or not products_overflow(flags):
        return None
    return (
        "this CPU has neither VNNI nor AMX: products of the int8 variant can overflow on it and change "
        "answers; use --variant fp32 if the bundle has it, or export again with --target avx2"
    )


def _driver() -> tuple[tuple[int, int], list[str]] | None:
    """The newest CUDA (major, minor) that the NVIDIA driver serves, and its devices; None without one."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if library.cuInit(0) != 0:
        return None
    number, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    library.cuDeviceGetCount(ctypes.byref(count))
    devices = []
    for index in range(count.value):
        name = ctypes.create_string_buffer(256)
        device = ctypes.c_int()
        library.cuDeviceGet(ctypes.byref(device), index)
        library.cuDeviceGetName(name, len(name), device)
        devices.append(name.value.decode(errors="replace"))
    return (number.value // 1000, number.value % 1000 // 10), devices


def _driver_release() -> str | None:
    """The NVIDIA driver's own version (not CUDA's), as its kernel module tells it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def _pip_libraries() -> dict[str, str]:
    wanted = re.compile(r"nvidia-(cuda-runtime|cublas|cudnn|cufft|curand)")
    return {
        name: distribution.version
        for distribution in importlib.metadata.distributions()
        if wanted.match(name := distribution.metadata["Name"] or "")
    }


def _missing_libraries(cuda_major: str) -> list[str]:
    """Libraries of onnxruntime's CUDA provider that neither pip nor the system's linker has."""
    if not cuda_major:
        return []
    needed = (f"libcudart.so.{cuda_major}", f"libcublas.so.{cuda_major}", "libcudnn.so.9")
    return [library for library in needed if not _in_pip_packages(library) and not _loads(library)]


def _in_pip_packages(library: str) -> bool:
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    return any(next(Path(place).rglob(library), None) for place in places or ())


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
