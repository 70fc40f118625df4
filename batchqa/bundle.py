"""A bundle: the folder that holds a model ready to run. Open it, verify it, describe it, write it.

A bundle is `tokenizer.json`, one or more `model.<precision>.onnx`, `README.md` (the model card) and
`bundle.json`, which says what the others are and holds their sha256. A bundle that does not verify is
not used. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from batchqa.errors import DeviceError, ModelError
from batchqa.languages import TextProfile
from batchqa.probability import Calibration
from batchqa.records import Layout

FORMAT = 3
"""Format 1 had no seal, format 2 calibrated by curves alone and knew no padding; both are still read."""

BUNDLED = Path(__file__).parent / "bundled"
"""The model that comes with the package: what `--model default` means."""

MANIFEST = "bundle.json"
_UNSEALED = "0" * 64
TOKENIZER = "tokenizer.json"
CARD = "README.md"
ALLOWED_SUFFIXES = (".json", ".onnx", ".onnx_data", ".md", ".txt")
"""A bundle with any other file is refused: no code, no pickles, no archives, no engine's own format."""

PREFERRED = {"cpu": ("int8", "fp32"), "cuda": ("fp16", "fp32")}
"""Precisions for a kind of device, the fastest first."""

NO_INT8_ON_CUDA = (
    "int8 does not run on CUDA: onnxruntime has no CUDA kernels for its integer products, which would all "
    "run on the CPU with copies between"
)


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """Where the model came from. `revision` is a 40-hex commit of a hub, None for a folder."""

    id: str
    revision: str | None
    licence: str | None


@dataclass(frozen=True, slots=True)
class Abstention:
    """Whether the model was trained to say "no answer", and how that was decided."""

    value: bool
    how: str
    null_wins: int | None = None
    pairs: int | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """No answer when null score - best span score > value (raw logits), and what it was fitted on."""

    value: float
    fitted_on: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One precision of the model and what it was verified on; `verification` holds the figures.

    `weight_bits`: bits of the weights in products of bytes. With 8 such a product can overflow on an x86
    processor without VNNI and AMX, with 7 it cannot; 0 where everything is computed in floats. None where an
    int8 bundle of an earlier version does not say; it is taken for 8.
    """

    precision: str
    file: str
    devices: tuple[str, ...]
    engines: tuple[str, ...]
    verification: Mapping[str, Any] = field(default_factory=dict)
    weight_bits: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `bundle.json` holds. `max_length` is in tokens, special ones included.

    `languages` are those that the model is for, as far as is known, `texts` what the texts that it was
    verified on look like to its tokenizer; earlier bundles have neither.
    unpadded: the model's answers change with the padding beside a window, so that windows of one length only
    go together. left_out: why a precision that was asked for is not in the bundle, by its name.
    """

    name: str
    source: ModelOrigin
    architecture: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_length: int
    layout: Layout
    abstains: Abstention
    threshold: Threshold
    calibration: Calibration | None
    variants: tuple[Variant, ...]
    versions: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    languages: tuple[str, ...] = ()
    texts: TextProfile | None = None
    unpadded: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs_unpadded(self) -> bool:
        """Whether windows of one length only may go together.

        Bundles of earlier versions say nothing of it, but how many answers changed with the batch when they
        were verified. float16 rounds coarser than what counts as a change: it counts only where it is alone.
        """
        changed = {v.precision: v.verification.get("changed_by_batching", 0) for v in self.variants}
        others = [count for precision, count in changed.items() if precision != "fp16"]
        is_old = not any("answers_changed_by_batching" in v.verification for v in self.variants)
        return self.unpadded or (is_old and any(others or changed.values()))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle on disk; `digest` is the sha256 of its bundle.json."""

    path: Path
    manifest: Manifest
    digest: str

    def changed(self, **fields: Any) -> Bundle:
        """The bundle as if its manifest had these fields."""
        return replace(self, manifest=replace(self.manifest, **fields))

    @property
    def tokenizer(self) -> Path:
        """The path of tokenizer.json."""
        return self.path / TOKENIZER

    def model(self, variant: Variant) -> Path:
        """The path of a variant's ONNX file."""
        return self.path / variant.file

    def size(self, variant: Variant) -> int:
        """The bytes of a variant, those included that its file reads from another variant's."""
        said = int(1e6 * variant.verification.get("megabytes", 0))
        return max(self.model(variant).stat().st_size, said)

    def choices(self, device: str, engine: str, precision: str | None) -> list[Variant]:
        """The variants verified for a device kind ("cpu", "cuda") and an engine, the best first.

        CUDA takes fp16, then fp32; the CPU takes int8, then fp32. int8 weights that openvino widens come
        last, since it is as fast with float32's. `precision` names one explicitly.
        """
        order = (precision,) if precision else PREFERRED[device]
        here = [
            variant
            for variant in self.manifest.variants
            if device in variant.devices and engine in variant.engines and variant.precision in order
        ]

        def rank(variant: Variant) -> tuple[bool, int]:
            is_widened = variant.precision == "int8" and not variant.weight_bits
            return engine == "openvino" and is_widened, order.index(variant.precision)

        return sorted(here, key=rank)

    def choose(self, device: str, engine: str, precision: str | None) -> Variant:
        """The first of `choices`. Raises DeviceError, saying why, where there is none."""
        found = self.choices(device, engine, precision)
        if found:
            return found[0]
        order = PREFERRED[device]
        have = ", ".join(
            f"{v.precision} ({'/'.join(v.devices)}; {'/'.join(v.engines)})" for v in self.manifest.variants
        )
        int8_here = any(variant.precision == "int8" for variant in self.manifest.variants)
        why = f". {NO_INT8_ON_CUDA}" if device == "cuda" and int8_here and precision in (None, "int8") else ""
        advice = "fp16" if device == "cuda" else precision or order[0]
        raise DeviceError(
            f"bundle {self.manifest.name!r} has no {precision or ' or '.join(order)} variant verified for "
            f"{device} with {engine}; it has: {have}{why}. Export one with `batchqa export --precision "
            f"{advice}`"
        )


def open_model(model: str | Path) -> Bundle:
    """Open "default" or a bundle's folder. Raises ModelError, saying what to do, where there is none."""
    if str(model) == "default":
        if not BUNDLED.is_dir():
            raise ModelError("this installation comes without a model; give one with --model BUNDLE")
        return open_bundle(BUNDLED)
    path = Path(model)
    if not path.exists():
        raise ModelError(
            f"there is no model at {path}; give a bundle's folder, or make one with `batchqa export`"
        )
    return open_bundle(path)


def open_bundle(path: Path) -> Bundle:
    """Read and verify the bundle in folder `path`.

    Raises ModelError, naming the file, where anything is missing, foreign or not what bundle.json says.
    """
    manifest_path = path / MANIFEST
    if not path.is_dir() or not manifest_path.is_file():
        raise ModelError(
            f"{path} is not a bundle: it has no {MANIFEST}; make one with `batchqa export MODEL -o BUNDLE`"
        )
    raw = manifest_path.read_bytes()
    try:
        record = orjson.loads(raw)
        manifest = _manifest_from(record)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{manifest_path} cannot be read{disguise(raw)}: {type(error).__name__}: {error}; "
            "export the bundle again"
        ) from error
    if not _seal_holds(raw, record):
        raise ModelError(
            f"{manifest_path} is damaged or was changed by hand: its checksum does not match; copy or "
            "export the bundle again (`batchqa evaluate --tune` sets another threshold)"
        )
    _verify(path, manifest)
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write `bundle.json` into folder `path`, with the sha256 of every other file: an export's last step."""
    digests = {file.name: _sha256(file) for file in sorted(path.iterdir()) if file.name != MANIFEST}
    record = asdict(manifest) | {"files": digests, "format": max(manifest.format, FORMAT)}
    (path / MANIFEST).write_bytes(sealed(record))


def sealed(record: Mapping[str, Any]) -> bytes:
    """The bytes of a bundle.json with its seal: the sha256 of these very bytes with zeros for the seal."""
    raw = orjson.dumps({**record, "seal": _UNSEALED}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return raw.replace(_UNSEALED.encode(), hashlib.sha256(raw).hexdigest().encode())


def _seal_holds(raw: bytes, record: Mapping[str, Any]) -> bool:
    """Whether no byte of bundle.json has changed since it was written; a file of format 1 has no seal."""
    if "seal" not in record:
        return bool(record["format"] == 1)
    seal = str(record["seal"]).encode()
    return hashlib.sha256(raw.replace(seal, _UNSEALED.encode())).hexdigest().encode() == seal


def _manifest_from(record: dict[str, Any]) -> Manifest:
    if record["format"] not in range(1, FORMAT + 1):
        raise ValueError(f"format {record['format']}, this batchqa reads formats 1 to {FORMAT}")
    layout = record["layout"] | {
        part: tuple(record["layout"][part]) for part in ("before", "between", "after")
    }
    calibration = record["calibration"]
    variants = tuple(
        Variant(**(v | {"devices": tuple(v["devices"]), "engines": tuple(v["engines"])}))
        for v in record["variants"]
    )
    if not variants:
        raise ValueError("it names no variant")
    known = {f.name for f in fields(Manifest)}
    return Manifest(
        **({name: value for name, value in record.items() if name in known})
        | {
            "source": ModelOrigin(**record["source"]),
            "inputs": tuple(record["inputs"]),
            "outputs": tuple(record["outputs"]),
            "layout": Layout(**layout),
            "abstains": Abstention(**record["abstains"]),
            "threshold": Threshold(**record["threshold"]),
            "calibration": _calibration_from(calibration) if calibration else None,
            "variants": variants,
            "languages": tuple(record.get("languages", ())),
            "texts": TextProfile.from_record(record["texts"]) if record.get("texts") else None,
        }
    )


def _calibration_from(record: dict[str, Any]) -> Calibration:
    knots: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    calibration = Calibration(**knots)
    _ = calibration.answered, calibration.refused  # ValueError where they read what is not known here
    return calibration


def _verify(path: Path, manifest: Manifest) -> None:
    root = path.resolve()
    named = set(manifest.files) | {MANIFEST}
    for file in sorted(path.iterdir()):
        if file.name not in named or file.suffix not in ALLOWED_SUFFIXES or not file.is_file():
            raise ModelError(
                f"{file} does not belong to the bundle: {MANIFEST} does not list it; "
                "remove it or export again"
            )
    for needed in (TOKENIZER, *(variant.file for variant in manifest.variants)):
        if needed not in manifest.files:
            raise ModelError(f"{path / MANIFEST} lists no sha256 for {needed}; export the bundle again")
    for name, expected in manifest.files.items():
        file = path / name
        if Path(name).name != name:
            raise ModelError(f"{path / MANIFEST} names {name!r}, which is outside the bundle")
        if not file.is_file():
            raise ModelError(f"{file} is missing from the bundle; export the bundle again")
        if not _inside(file, root):
            raise ModelError(
                f"{file} is a link to a file outside the bundle; copy the file itself into the bundle"
            )
        actual = _sha256(file)
        if actual != expected:
            with file.open("rb") as stream:
                hint = disguise(stream.read(512))
            raise ModelError(
                f"{file} is damaged{hint}: sha256 {actual}, expected {expected}; "
                "copy or export the bundle again"
            )


def _inside(file: Path, root: Path) -> bool:
    """Whether a file's content lies in the bundle, or in the `blobs` of the hub cache that holds it."""
    target = file.resolve()
    if target.is_relative_to(root):
        return True
    snapshots = root.parent
    return snapshots.name == "snapshots" and target.is_relative_to(snapshots.parent / "blobs")


def disguise(head: bytes) -> str:
    """What a damaged file often is instead, from its first bytes."""
    if head.startswith(b"version https://git-lfs"):
        return " (a Git LFS pointer, not the file itself: run `git lfs pull`)"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return " (an HTML page, not the file itself: the download failed)"
    if not head:
        return " (it is empty)"
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
