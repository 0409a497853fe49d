"""The report of an export: the file, and how well it matches the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.parity import Parity


@dataclass(frozen=True)
class ExportReport:
    """The result of `export_onnx`. It can be printed, or stored with `to_json()`.

    Attributes:
        path: the file.
        bytes: its size.
        data_path: the second file, with weights beyond 2 GiB; None for nearly every model.
        opset: ONNX operator set.
        inputs: name, dtype and shape of each input.
        dimension: length D of an embedding.
        normalized: whether embeddings have length 1.
        projector: "kept", "dropped" or "none".
        weights_sha256: hash of the weights, not of the file.
        matches: whether the embeddings are within tolerance; False only with `allow_mismatch=True`.
        max_abs_diff: largest absolute difference to the Keras model, computing in float32.
        scale: largest absolute number of the Keras model's embeddings.
        min_cosine: smallest cosine between the file's and the Keras model's embedding of a sample.
        rows: number of samples compared.
        policies: dtype policies of layers that the file computes in float32 instead, such as "mixed_float16".
        half_precision: the difference between the model's own embeddings, in half precision, and those in float32, a
            `Parity` as a dict; None without such layers, or if half precision overflows.
        hints: possibly unexpected behaviour of the file.
        seconds: duration of the export.
        versions: of the packages that wrote the file.
    """

    path: Path
    bytes: int
    data_path: Path | None
    opset: int
    inputs: tuple[InputSpec, ...]
    dimension: int
    normalized: bool
    projector: str
    weights_sha256: str
    matches: bool
    max_abs_diff: float
    scale: float
    min_cosine: float
    rows: int
    policies: tuple[str, ...]
    half_precision: dict[str, object] | None
    hints: tuple[str, ...]
    seconds: float
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Return the report as a dict that JSON can store."""
        return asdict(self) | {
            "path": str(self.path),
            "data_path": None if self.data_path is None else str(self.data_path),
            "inputs": [spec.to_dict() for spec in self.inputs],
            "policies": list(self.policies),
            "hints": list(self.hints),
        }

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        verdict = "matches the Keras model" if self.matches else "DOES NOT MATCH the Keras model"
        lines = {
            "file": f"{self.path} ({self.bytes / 1e6:.2f} MB, opset {self.opset})",
            "data file": self.data_path,
            "inputs": "; ".join(map(str, self.inputs)),
            "embedding": f"float32 (batch, {self.dimension}), {'length 1' if self.normalized else 'not normalized'}",
            "projector": self.projector,
            "weights": self.weights_sha256[:16],
            "parity": f"{verdict} on {self.rows} rows",
            "max difference": f"{self.max_abs_diff:.1e} at scale {self.scale:.1e}",
            "min cosine": f"{self.min_cosine:.7f}",
            "precision": self._precision_text(),
            "seconds": f"{self.seconds:.1f}",
            "versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "hints": "\n                ".join(self.hints),
        }
        return "\n".join(f"{name:<14}  {value}" for name, value in lines.items() if value)

    def _precision_text(self) -> str:
        if not self.policies:
            return ""
        own = self.half_precision
        difference = (
            f"own embeddings differ by {own['max_abs_diff']:.1e}, cosine {own['min_cosine']:.7f}"
            if own
            else "own embeddings overflow"
        )
        return f"float32 instead of {', '.join(self.policies)}: {difference}"


def make_report(
    path: Path,
    opset: int,
    inputs: tuple[InputSpec, ...],
    metadata: Mapping[str, Any],
    parity: Parity,
    hints: list[str],
    seconds: float,
) -> ExportReport:
    """Return the report on the file at `path`, which holds `metadata`."""
    data_file = metadata.get("data_file")
    return ExportReport(
        path=path,
        bytes=path.stat().st_size,
        data_path=path.with_name(data_file["name"]) if data_file else None,
        opset=opset,
        inputs=inputs,
        matches=parity.passed,
        policies=tuple(metadata["precision"]["policies"]),
        half_precision=metadata["precision"]["difference"],
        hints=tuple(hints),
        seconds=seconds,
        **{name: metadata[name] for name in ("dimension", "normalized", "projector", "weights_sha256", "versions")},
        **asdict(parity),
    )
