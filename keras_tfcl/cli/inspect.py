"""`keras-tfcl inspect`"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from keras_tfcl.cli.options import AsJson, OnnxFile
from keras_tfcl.export.runtime.encoder import OnnxEncoder

_LONG = ("tokenizer", "probes")  # numbers for programs


def inspect(file: OnnxFile, as_json: AsJson = False) -> None:
    """Show the inputs, the output and the metadata of an exported file.

    Example: keras-tfcl inspect encoder.onnx
    """
    content = describe(file)
    if as_json:
        print(json.dumps(content | {"ok": True}))
        return
    for name, value in content.items():
        print(f"{name:<10} {value}" if not isinstance(value, dict) else name)
        for inner, item in value.items() if isinstance(value, dict) else ():
            print(f"  {inner:<15} {json.dumps(item)}")


def describe(path: Path) -> dict[str, object]:
    """Return the description of an exported file, without running it."""
    encoder = OnnxEncoder(path, providers="cpu")
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    metadata = {name: value for name, value in encoder.metadata.items() if name not in _LONG}
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "inputs": "; ".join(map(str, encoder.inputs)),
        "embedding": f"float32 (batch, {encoder.dimension})",
        "metadata": metadata,
    }
