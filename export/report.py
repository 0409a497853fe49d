"""What an export wrote and how well it matches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_tfcl.export.inputs import InputSpec


@dataclass(frozen=True)
class ExportReport:
    """The result of `export_onnx`. `print` it, or store `to_dict()` as JSON.

    Attributes:
        path: the file.
        bytes: its size.
        opset: ONNX operator set.
        inputs: name, dtype and shape of each input.
        dimension: length D of an embedding.
        normalized: whether embeddings have length 1.
        projector: "kept", "dropped" or "none".
        weights_sha256: hash of the weights, not of the file.
        matches: whether the embeddings are within tolerance; False only with `allow_mismatch=True`.
        max_abs_diff: largest absolute difference to the Keras model.
        min_cosine: smallest cosine of a row to that of the Keras model.
        rows: rows compared.
        seconds: duration of the export.
        versions: of the packages that wrote the file.
    """

    path: Path
    bytes: int
    opset: int
    inputs: tuple[InputSpec, ...]
    dimension: int
    normalized: bool
    projector: str
    weights_sha256: str
    matches: bool
    max_abs_diff: float
    min_cosine: float
    rows: int
    seconds: float
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report in types that JSON has."""
        return asdict(self) | {"path": str(self.path), "inputs": [spec.to_dict() for spec in self.inputs]}

    def __str__(self) -> str:
        verdict = "matches the Keras model" if self.matches else "DOES NOT MATCH the Keras model"
        lines = {
            "file": f"{self.path} ({self.bytes / 1e6:.2f} MB, opset {self.opset})",
            "inputs": "; ".join(map(str, self.inputs)),
            "embedding": f"float32 (batch, {self.dimension}), {'length 1' if self.normalized else 'not normalized'}",
            "projector": self.projector,
            "weights": self.weights_sha256[:16],
            "parity": f"{verdict} on {self.rows} rows",
            "max difference": f"{self.max_abs_diff:.1e}",
            "min cosine": f"{self.min_cosine:.7f}",
            "seconds": f"{self.seconds:.1f}",
            "versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        }
        return "\n".join(f"{name:<14}  {value}" for name, value in lines.items())
