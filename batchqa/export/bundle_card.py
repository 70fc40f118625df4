"""The model card of a bundle: README.md, written from what bundle.json says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchqa.bundle import Manifest, Variant

_ROWS = (
    ("span_agreement", "same answer as the original", "{:.2%}"),
    ("changed_by_batching", "answers changed by batching", "{:d}"),
    ("largest_logit_difference", "largest logit difference", "{:.4f}"),
    ("exact", "exact match", "{:.2f}"),
    ("f1", "F1", "{:.2f}"),
    ("exact_of_original", "exact match of the original", "{:.2f}"),
    ("f1_of_original", "F1 of the original", "{:.2f}"),
    ("speed_up_over_torch", "windows/s, as a multiple of PyTorch's", "{:.2f}"),
    ("megabytes", "size in MB", "{:.1f}"),
)

_PRODUCTS = {
    8: "Weights of 8 bits: exact on x86 CPUs with VNNI or AMX and on Arm; on others products can overflow.",
    7: "Weights of 7 bits: no product overflows on any CPU.",
}


def model_card(manifest: Manifest, notes: str = "") -> str:
    """The card's text; `notes` is a paragraph of its maker's."""
    source = manifest.source
    says = "says so when a passage does not answer" if manifest.abstains.value else "always answers"
    left_out = [f"- {precision}: {why}" for precision, why in manifest.left_out.items()]
    parts = [
        f"# {manifest.name}",
        f"A bundle for batchqa: extractive question answering, {manifest.architecture}. It {says}.",
        notes,
        "## Origin",
        _origin(manifest),
        "## Decisions",
        _decision(manifest),
        "## Variants",
        *(_variant(variant) for variant in manifest.variants),
        *(["## Left out", "\n".join(left_out)] if left_out else []),
        "## Made with",
        "\n".join(f"- {library} {version}" for library, version in manifest.versions.items()),
    ]
    header = f"---\nlicense: {source.licence.lower()}\n---\n\n" if source.licence else ""
    return header + "\n\n".join(part for part in parts if part) + "\n"


def _origin(manifest: Manifest) -> str:
    source = manifest.source
    return (
        f"- Made from {source.id}{f' at commit {source.revision}' if source.revision else ''}\n"
        f"- Licence of the weights: {source.licence or 'not stated by the source'}\n"
        f"- Languages: {', '.join(manifest.languages) or 'not stated'}"
    )


def _decision(manifest: Manifest) -> str:
    abstains, threshold = manifest.abstains, manifest.threshold
    unpadded = (
        "\n- Its answers change with padding: only windows of equal length are run together"
        if manifest.runs_unpadded
        else ""
    )
    return (
        f"- Longest input: {manifest.max_length} tokens\n"
        f"- Abstains: {'yes' if abstains.value else 'no'} ({abstains.how})\n"
        f"- No answer when null score - best span score > {threshold.value:g} ({threshold.fitted_on})"
        f"{unpadded}"
    )


def _variant(variant: Variant) -> str:
    figures = variant.verification
    arithmetic = f" in {figures['arithmetic']}" if "arithmetic" in figures else ""
    verified = (
        f"Compared with the original in PyTorch, on {figures['rows']} rows of {figures['verified_on']}, "
        f"with {figures['verified_with']}{arithmetic}:"
    )
    lines = [
        f"### {variant.file}",
        f"For {', '.join(variant.devices)} with {', '.join(variant.engines)}: {figures['scheme']}.",
        _PRODUCTS.get(variant.weight_bits or 0, ""),
        verified,
        _figures(figures),
    ]
    if beside := figures.get("openvino"):
        taken = "" if "openvino" in variant.engines else ", not used"
        lines += [f"The same file with OpenVINO in {beside['arithmetic']}{taken}:", _figures(beside)]
    if refused := figures.get("refused"):
        lines += [
            f"Tried first, and not used because it {refused['why']}: {refused['scheme']}.",
            _figures(refused),
        ]
    return "\n\n".join(line for line in lines if line)


def _figures(figures: Mapping[str, Any]) -> str:
    rows = [f"| {label} | {form.format(figures[key])} |" for key, label, form in _ROWS if key in figures]
    return "| figure | value |\n|---|---|\n" + "\n".join(rows)
