"""docs/losses.md: its code runs, its table names what exists."""

import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_tfcl
import keras_tfcl.testing

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text()
NAMES_OF_INPUTS = "questions answers wrong_answers users items first second view_1 view_2".split()
NAMES_OF_ENCODERS = "encoder text_encoder user_tower item_tower guide".split()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def scope():
    """What the page's code takes for granted: encoders of numbers, and data."""
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(64, 4)).astype("float32") for name in NAMES_OF_INPUTS}
    encoders = {name: keras.Sequential([keras.Input((4,)), keras.layers.Dense(32)]) for name in NAMES_OF_ENCODERS}
    labelled = tf.data.Dataset.from_tensor_slices((inputs["first"], np.arange(64) % 10)).batch(32)
    pairs = tf.data.Dataset.from_tensor_slices((inputs["questions"], inputs["answers"])).batch(32)
    return {
        "keras": keras,
        "keras_tfcl": keras_tfcl,
        "np": np,
        "tf": tf,
        **inputs,
        **encoders,
        "item_ids": np.arange(64) % 40,
        "probability": np.full(64, 0.1),
        "scores": rng.uniform(size=64),
        "ages": rng.integers(20, 70, 64),
        "classes": 10,
        "labelled_batches": labelled,
        "text_batches": pairs,
    }


def test_code_runs():
    """All blocks one after the other; `batch_size` is what the scope has data for."""
    values = scope()
    for block in BLOCKS:
        code = re.sub(r"batch_size=\d+", "batch_size=32", block)
        exec(compile(code, "docs/losses.md", "exec"), values)  # check_loss raises if anything is wrong
    (mark,) = values["test_my_loss"].pytestmark
    assert mark.name == "parametrize"
    assert len(mark.args[1]) == len(keras_tfcl.testing.CHECKS)
    assert "```text" not in PAGE


def test_a_rule_of_your_own_takes_ten_lines():
    (block,) = [block for block in BLOCKS if "class NearInAge" in block]
    assert block.split("\n\n\n")[0].count("\n") <= 10


def test_every_loss_has_a_row():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    first_cells = " ".join(line.split(" | ")[0] for line in rows)
    for name in set(keras_tfcl.losses.__all__) - {"EmbeddingLoss", "ScoredPairLoss", "get"}:
        assert name in first_cells, name
    for name in re.findall(r"[A-Z]\w+", re.sub(r"[^`]*`([^`]*)`", r"\1 ", first_cells)):
        assert hasattr(keras_tfcl, name), name
    assert all(line.count(" | ") == 3 for line in rows)
