"""The tokenizer to store in a file: a Hugging Face tokenizer, or a converted Keras `TextVectorization`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tfcl.export.errors import ModelInputError, text_of
from keras_tfcl.export.keras_to_onnx.source import Source
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.tokens import TextRule, text_rule

if TYPE_CHECKING:
    import keras

_SPACES = "[ \\t\\n\\v\\f\\r]+"  # TensorFlow splits words at these
_PUNCTUATION = r'[!"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~\']'  # Keras strips these
_STANDARDIZATIONS = ("lower_and_strip_punctuation", "lower", "strip_punctuation", None)
_TEXTS = (
    "", " ", "The cat, the DOG; and the bird!", "it's a state-of-the-art text (really)", "tabs\tand\nnew lines\r\n ",
    "ÄÖÜ äöü É ß İ Σ", "日本語 テキスト", "emoji 🙂🙂 and a non-breaking\u00a0space", "1,234.5 %", "[UNK] [PAD] ''",
)  # fmt: skip


def tokenizer_json(tokenizer: object) -> str:
    """Return the JSON of a tokenizer.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, its JSON, the path of its JSON file, or a `keras.layers.TextVectorization`.

    Raises:
        TypeError: `tokenizer` has another type.
        ValueError: the JSON is not a tokenizer, or the `TextVectorization` cannot be converted.
        FileNotFoundError: there is no such file.
        ImportError: the package `tokenizers` is missing; the message names the extra.
    """
    tokenizers, keras = require("tokenizers", "text"), require("keras", "tf")
    if isinstance(tokenizer, keras.layers.TextVectorization):
        return _from_text_vectorization(tokenizers, tokenizer).to_str()
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of transformers' fast tokenizers
    if isinstance(backend, tokenizers.Tokenizer):
        return backend.to_str()
    if not isinstance(tokenizer, (str, os.PathLike)):
        raise TypeError(
            f"`tokenizer` must be a tokenizers.Tokenizer, its JSON or the path of it, or a TextVectorization. "
            f"Received: {type(tokenizer).__name__}. Load one by tokenizers.Tokenizer.from_file('tokenizer.json')."
        )
    text = os.fspath(tokenizer)
    content = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
    try:
        return tokenizers.Tokenizer.from_str(content).to_str()
    except Exception as error:  # the package raises bare exceptions
        raise ValueError(
            f"`tokenizer` must be the JSON of a Hugging Face tokenizer. Received: {text[:60]!r} "
            f"({error}). Save one by tokenizer.save('tokenizer.json')."
        ) from error


def check_tokenizer(text: str, source: Source, path: Path) -> TextRule:
    """Return the rule by which a server tokenizes texts, after checking that the model accepts every token.

    Raises:
        InputError: a tokenizer cannot fill the inputs.
        ModelInputError: the model does not know every token.
    """
    rule = text_rule(source.inputs, {"tokenizer": text}, path)
    highest = max([rule.pad_id, *rule.tokenizer.get_vocab().values()])
    rows = rule.rows([([highest] * min(2, rule.length or 2), [0] * min(2, rule.length or 2))])
    try:
        embeddings = np.asarray(source(*rows))
    except Exception as error:  # layers raise any exception
        raise ModelInputError(
            f"The model must take every token of `tokenizer`. Received: the token {highest}, on which the model raises "
            f"{text_of(error)}. Give the tokenizer that the model was trained with."
        ) from error
    if not np.isfinite(embeddings).all():
        raise ModelInputError(
            f"The model must take every token of `tokenizer`. Received: NaN for the token {highest}. Give the "
            f"tokenizer that the model was trained with."
        )
    return rule


def _from_text_vectorization(tokenizers: Any, layer: keras.layers.TextVectorization) -> Any:
    """Convert a `TextVectorization` to a tokenizer of words or characters, and compare the two on texts."""
    config = layer.get_config()
    _check_supported(config)
    vocabulary = layer.get_vocabulary()
    words = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=vocabulary[1]))
    normalizers, regex, standardize = tokenizers.normalizers, tokenizers.Regex, config["standardize"] or ""
    steps = [normalizers.Replace(chr(65 + i), chr(97 + i)) for i in range(26 if "lower" in standardize else 0)]
    if "strip_punctuation" in standardize:
        steps.append(normalizers.Replace(regex(_PUNCTUATION), ""))
    tokenizer.normalizer = normalizers.Sequence(steps)
    if config["split"] == "whitespace":
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(regex(_SPACES), "removed")
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(regex("[\\s\\S]"), "isolated")
    length = config["output_sequence_length"]
    if length:
        tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=0, pad_token="", length=length)
    _check_equal(tokenizer, layer, vocabulary)
    return tokenizer


def _check_supported(config: dict[str, object]) -> None:
    wanted = {
        "output_mode": ("int",),
        "standardize": _STANDARDIZATIONS,
        "split": ("whitespace", "character"),
        "ngrams": (None,),
        "ragged": (False,),
        "encoding": ("utf-8",),
    }
    for name, allowed in wanted.items():
        value = config.get(name, allowed[0])
        if callable(value) or isinstance(value, dict) or value not in allowed:
            raise ValueError(
                f"A TextVectorization can be stored with {name} in {allowed}. Received: {name}={value!r}. Tokenise "
                f"outside the model, or train with a Hugging Face tokenizer."
            )


def _check_equal(tokenizer: Any, layer: keras.layers.TextVectorization, vocabulary: list[str]) -> None:
    """Raise ValueError if layer and tokenizer differ on a text."""
    known = vocabulary[2:500]
    texts = [*_TEXTS, " ".join(known), " ".join(known).upper(), "".join(known), *known[:50]]
    for text in texts:
        expected = np.asarray(layer([text]))[0]
        found = tokenizer.encode(text).ids
        length = max(len(expected), len(found))
        padded, own = (np.pad(np.asarray(ids, np.int64), (0, length - len(ids))) for ids in (expected, found))
        if not np.array_equal(padded, own):
            raise ValueError(
                f"A tokenizer must give the numbers that the TextVectorization gives. Received: other "
                f"numbers for {text!r:.60}. Tokenise outside the model, or train with a Hugging Face tokenizer."
            )
