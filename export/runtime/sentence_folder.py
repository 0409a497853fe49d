"""ONNX folders that sentence-transformers writes: a transformer, its tokenizer, and how its tokens are pooled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_tfcl.export.errors import ModelFileError

Pooling = Literal["mean", "cls"]
POOLINGS = ("mean", "cls")
_MODELS = ("model.onnx", "onnx/model.onnx")


@dataclass(frozen=True)
class SentenceFolder:
    """What a folder holds.

    Attributes:
        model: the ONNX file.
        tokenizer: the JSON of its tokenizer, or None.
        pooling: how the vectors of tokens become one, or None where the folder does not say.
        normalize: whether the embedding is divided by its length.
    """

    model: Path
    tokenizer: str | None
    pooling: Pooling | None
    normalize: bool


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Return what a folder holds: `model.onnx` or `onnx/model.onnx`, and beside it what sentence-transformers writes.

    These are `tokenizer.json`, `sentence_bert_config.json` with the longest text, `modules.json`, and
    `1_Pooling/config.json`.

    Raises:
        ModelFileError: there is no model, a file is no JSON, or a step after the transformer is not known here.
    """
    model = next((folder / name for name in _MODELS if (folder / name).is_file()), None)
    if model is None:
        raise ModelFileError(
            f"Expected a folder with {' or '.join(_MODELS)}. Received: {folder}, which has "
            "neither. Give the path of an ONNX file."
        )
    modules = _json(folder / "modules.json") or []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise ModelFileError(
            f"Expected a transformer, a pooling and perhaps a normalization. Received: {folder} with "
            f"{', '.join(unknown)} in modules.json. Export the whole model to one (batch, D) output, and give "
            f"that file."
        )
    return SentenceFolder(model, _tokenizer(folder), _pooling(folder), "Normalize" in kinds)


def pooled(hidden: np.ndarray, mask: np.ndarray | None, pooling: Pooling) -> np.ndarray:
    """Return one vector for each row of token vectors `(N, length, D)`: the first one, or the mean of the real tokens.

    Args:
        hidden: the vectors of the tokens.
        mask: `(N, length)`, 1 for tokens and 0 for padding; None takes all.
        pooling: "mean" or "cls".
    """
    if pooling == "cls":
        first = np.zeros(len(hidden), int) if mask is None else np.argmax(mask != 0, axis=1)  # padding may stand before
        return hidden[np.arange(len(hidden)), first]
    weights = np.ones(hidden.shape[:2], hidden.dtype) if mask is None else mask.astype(hidden.dtype)
    return np.einsum("nld,nl->nd", hidden, weights) / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)


def _tokenizer(folder: Path) -> str | None:
    content = _json(folder / "tokenizer.json")
    if content is None:
        return None
    settings = _json(folder / "sentence_bert_config.json") or {}
    longest = settings.get("max_seq_length")
    if isinstance(longest, int) and longest > 0:
        usual = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
        content["truncation"] = {**usual, **(content.get("truncation") or {}), "max_length": longest}
    return json.dumps(content)


def _pooling(folder: Path) -> Pooling | None:
    config = _json(folder / "1_Pooling" / "config.json")
    if config is None:
        return None
    flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    asked = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    names = [flags.get(name, name) for name in asked] or [config.get("pooling_mode")]
    if len(names) != 1 or names[0] not in POOLINGS:
        raise ModelFileError(
            f"The pooling must be one of {', '.join(POOLINGS)}. Received: {names} in {folder / '1_Pooling'}. Export "
            f"the model with its pooling to one (batch, D) output, and give that file."
        )
    return names[0]


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"Expected JSON in {path}. Received: {error}. Copy the folder again.") from error
