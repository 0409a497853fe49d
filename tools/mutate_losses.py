"""Breaks the losses in one place at a time, in a copy, and counts how many of the breaks their tests catch.

    python tools/mutate_losses.py            all mutations, after one run of the tests on the unbroken copy
    python tools/mutate_losses.py mask sign  only those whose name holds one of these words

Prints a table; the exit status is 0 only if every mutation is caught. A mutation whose line is gone is an error, so the
list cannot go stale unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# The run of a broken copy stops at its first failure.
SUITE = [
    "tests/losses/test_family_against_numpy.py",
    "tests/losses/test_losses_against_numpy.py",
    "tests/losses/test_invariants_temperature.py",
    "tests/losses/test_invariants_reweighted.py",
    "tests/losses/test_invariants_arctanh.py",
    "tests/losses/test_loss_poles.py",
    "tests/testing/test_loss_conformance.py",
    "tests/losses/test_loss_keras_contract.py",
    "tests/callbacks/test_temperature_schedule.py",
    "tests/ops/test_pairwise.py",
    "tests/ops/test_pairwise_family.py",
    "tests/ops/test_pairwise_hardest.py",
]
TILED = "tests/ops/test_pairwise.py"
FAMILY = "tests/ops/test_pairwise_family.py"


class Mutation(NamedTuple):
    """In `file` the text `old`, which must occur there, becomes `new`; `first` holds the tests likely to notice."""

    name: str
    file: str
    old: str
    new: str
    first: str = "tests/losses/test_family_against_numpy.py"


MUTATIONS = [
    Mutation(
        "sign of the positives", "ops/info_nce.py", "(known - self.mean_positive)", "(known + self.mean_positive)"
    ),
    Mutation(
        "mean over positives",
        "ops/info_nce.py",
        "tf.where(pairs.positive, scaled, 0.0), 1) / tf.maximum(positives, 1.0)",
        "tf.where(pairs.positive, scaled, 0.0), 1)",
    ),
    Mutation(
        "mask of self-pairs", "ops/masks.py", "ops.expand_dims(columns, 0)\n", "ops.expand_dims(columns + 1, 0)\n"
    ),
    Mutation("mask of views", "ops/masks.py", "allowed = ops.logical_and(allowed, other_view)", "pass"),
    Mutation(
        "same label as negative", "ops/masks.py", "ops.logical_and(allowed, ops.logical_not(same_label))", "allowed"
    ),
    Mutation("positives in DCL", "ops/info_nce.py", "        if decoupled:", "        if False:"),
    Mutation("temperature squared", "ops/scaling.py", "dtype=similarity.dtype)", "dtype=similarity.dtype) ** 2"),
    Mutation(
        "factor of arctanh",
        "ops/scaling.py",
        "return (scale / 2.0) *",
        "return scale *",
        "tests/losses/test_losses_against_numpy.py",
    ),
    Mutation(
        "pole cut off by a clip",
        "ops/scaling.py",
        "s - ops.stop_gradient(s - ops.clip(s, -1.0, 1.0))",
        "ops.clip(s, -1 + 1e-3, 1 - 1e-3)",
        "tests/losses/test_losses_against_numpy.py",
    ),
    Mutation("one hard negative too many", "ops/hard.py", "ops.maximum(k - 1, 0)", "ops.maximum(k, 0)"),
    Mutation("floor for ceil of alpha", "ops/hard.py", "ops.ceil(", "ops.floor("),
    Mutation(
        "k-th negative and its ties dropped",
        "ops/hard.py",
        "similarity >= kth - TIE[keras.backend.standardize_dtype(similarity.dtype)]",
        "similarity > kth",
        "tests/losses/test_invariants_temperature.py",
    ),
    Mutation("HCL without M", "ops/reweighted.py", "else log_count + log_sums[0]", "else log_sums[0]"),
    Mutation("debiasing without 1 - tau+", "ops/reweighted.py", " / (1.0 - tau_plus)", ""),
    Mutation("debiasing with plus", "ops/reweighted.py", "- tau_plus * ops.exp", "+ tau_plus * ops.exp"),
    Mutation("HCL weights detached", "ops/reweighted.py", "if detach else ((1.0", "if True else ((1.0"),
    Mutation("floor with a gradient", "ops/reweighted.py", "ops.stop_gradient(floor))", "floor + 0.1 * log_positive)"),
    Mutation("sign of the simple loss", "ops/pair_sums.py", "repulsion - masked_mean", "repulsion + masked_mean"),
    Mutation("simple loss forgets its weight", "ops/pair_sums.py", "weight * _sum(similarity", "_sum(similarity"),
    Mutation(
        "sign of the sigmoid's negatives",
        "ops/pair_sums.py",
        "_sum(ops.softplus(logits), pairs.negative)",
        "_sum(ops.softplus(-logits), pairs.negative)",
    ),
    Mutation("sigmoid bias subtracted", "losses/sigmoid.py", "* similarity + bias", "* similarity - bias"),
    Mutation(
        "sigmoid scale not exponential",
        "losses/sigmoid.py",
        "ops.exp(log_scale) * similarity",
        "log_scale * similarity",
    ),
    Mutation("DCLW's 2", "ops/pair_sums.py", "return 2.0 - ", "return 1.0 - "),
    Mutation(
        "DCLW's weights trained",
        "ops/pair_sums.py",
        "ops.exp(ops.stop_gradient(positive) / sigma)",
        "ops.exp(positive / sigma)",
    ),
    Mutation(
        "guard turned round",
        "negatives/without_near_duplicates.py",
        "similarity < 1.0 - self.margin",
        "similarity > 1.0 - self.margin",
    ),
    Mutation(
        "guard forgets its negatives",
        "negatives/without_near_duplicates.py",
        "self.negatives.keep(similarity, ops.logical_and(mask, similarity < 1.0 - self.margin))",
        "ops.logical_and(mask, similarity < 1.0 - self.margin)",
    ),
    Mutation("normalisation left out", "ops/similarity.py", "return x / ops.sqrt(", "return x + 0.0 * ops.sqrt("),
    Mutation(
        "zero vector divides",
        "ops/similarity.py",
        "ops.where(squared == 0, ops.ones_like(squared), squared)",
        "squared",
        "tests/losses/test_loss_poles.py",
    ),
    Mutation("rows without positive in the mean", "losses/reduction.py", "else valid)", "else ops.ones_like(valid))"),
    Mutation("sample weights ignored", "losses/reduction.py", "losses * weight", "losses * valid"),
    Mutation(
        "labels cast to float",
        "ops/masks.py",
        "    anchor_labels, candidate_labels = ops.convert_to_tensor(anchor_labels), ops.convert_to_tensor(candidate_labels)",  # noqa: E501
        "    anchor_labels, candidate_labels = ops.cast(anchor_labels, 'float32'), ops.cast(candidate_labels, 'float32')",  # noqa: E501
        "tests/losses/test_loss_keras_contract.py",
    ),
    Mutation(
        "dtype not in the configuration",
        "losses/embedding_loss.py",
        '"dtype": self.dtype,\n',
        "",
        "tests/testing/test_loss_conformance.py",
    ),
    Mutation(
        "half precision under a policy",
        "scaling/learnable_temperature.py",
        "autocast=False,",
        "",
        "tests/testing/test_loss_conformance.py",
    ),
    Mutation(
        "learnable temperature inverted",
        "scaling/learnable_temperature.py",
        "ops.exp(ops.cast(self.log_scale",
        "ops.exp(-ops.cast(self.log_scale",
        "tests/losses/test_invariants_temperature.py",
    ),
    Mutation(
        "scheduled temperature trained",
        "scaling/scheduled_temperature.py",
        "trainable=False",
        "trainable=True",
        "tests/callbacks/test_temperature_schedule.py",
    ),
    Mutation(
        "schedule a quarter off",
        "callbacks/temperature_schedule.py",
        "(1.0 + math.cos(",
        "(1.0 + math.sin(",
        "tests/callbacks/test_temperature_schedule.py",
    ),
    Mutation(
        "DySTreSS without its half turn",
        "scaling/dynamic_temperature.py",
        "(1.0 + ops.stop_gradient(s))",
        "ops.stop_gradient(s)",
    ),
    Mutation(
        "NaN hidden",
        "losses/embedding_loss.py",
        "losses = comparison.nan_unless_finite(losses)",
        "pass",
        "tests/losses/test_loss_poles.py",
    ),
    Mutation(
        "tile: same label as negative",
        "ops/pairwise/tile.py",
        '"negative": compared & ~same, ',
        '"negative": compared, ',
        TILED,
    ),
    Mutation(
        "tile: an embedding with itself",
        "ops/pairwise/tile.py",
        "compared = rows.skip != columns.skip",
        "compared = rows.skip == rows.skip",
        TILED,
    ),
    Mutation(
        "tile: same view compared", "ops/pairwise/tile.py", "compared &= rows.views != columns.views", "pass", TILED
    ),
    Mutation("tile: padding compared", "ops/pairwise/tile.py", "compared &= side.valid", "pass", TILED),
    Mutation(
        "tile: thresholds of the other side",
        "ops/pairwise/tile.py",
        "for x in thresholds]",
        "for x in thresholds[::-1]]",
        TILED,
    ),
    Mutation(
        "tile: guard forgotten",
        "ops/pairwise/tile.py",
        "None if allows is None else allows(cosines)",
        "None",
        FAMILY,
    ),
    Mutation(
        "tile: detached slope",
        "ops/pairwise/reducers.py",
        "None if self.power_of_slope == 0 else self.power_of_slope *",
        "self.power *",
        TILED,
    ),
    Mutation("tile: shift kept", "ops/pairwise/reducers.py", " - self.shift, NOTHING)", ", NOTHING)", TILED),
    Mutation(
        "tile: power of online sums",
        "ops/pairwise/reducers.py",
        "return self.power * tile.logits",
        "return tile.logits",
        FAMILY,
    ),
    Mutation(
        "tile: sign of softplus",
        "ops/pairwise/reducers.py",
        "tf.nn.relu(self._wrong(tile))",
        "tf.nn.relu(tile.logits)",
        FAMILY,
    ),
    Mutation(
        "tile: rows for columns", "ops/pairwise/tiles.py", "tf.matmul(h, second[j]))", "tf.matmul(h, second[i]))", TILED
    ),
    Mutation(
        "tile: diagonal counted twice",
        "ops/pairwise/tiles.py",
        "tf.where(i == j, tf.cast(reducer.empty, a.dtype), of_columns)",
        "of_columns",
        TILED,
    ),
    Mutation(
        "tile: gradient of the diagonal twice",
        "ops/pairwise/tiles.py",
        "tf.cast(i != j, h.dtype) * of_columns",
        "of_columns",
        TILED,
    ),
    Mutation(
        "tile: variables twice on the diagonal", "ops/pairwise/tiles.py", "tf.where(i == j, x / 2, x)", "x", TILED
    ),
    Mutation(
        "tile: columns without a gradient", "ops/pairwise/tiles.py", "dc = _add(dc, j, of_columns)", "pass", TILED
    ),
    Mutation(
        "tile: distance of views",
        "ops/pairwise/reduction.py",
        "(distance + nothing[0] + nothing[1]) / 2.0",
        "(distance + nothing[0] + nothing[1])",
        TILED,
    ),
    Mutation(
        "tile: the only positive from the tile",
        "ops/info_nce.py",
        "known = tf.where(count == 1, only, total), tf.where(count == 1, only, known)",
        "known = total, known",
        TILED,
    ),
    Mutation(
        "tile: k one too low",
        "ops/pairwise/hardest.py",
        "reach >= k) & (trial > low), (reach < k)",
        "reach > k) & (trial > low), (reach <= k)",
        TILED,
    ),
    Mutation(
        "tile: tie dropped",
        "ops/pairwise/hardest.py",
        "found - TIE[z.dtype]",
        "found + TIE[z.dtype]",
        "tests/ops/test_pairwise_hardest.py",
    ),
    Mutation(
        "rows: overlap counted twice", "ops/pairwise/by_rows.py", "tf.where(new, ", "tf.where(index >= 0, ", FAMILY
    ),
    Mutation(
        "rows: columns without a gradient",
        "ops/pairwise/by_rows.py",
        "dc += tf.matmul(h, mine, transpose_a=True)",
        "pass",
        FAMILY,
    ),
]


def main(words: list[str]) -> int:
    """Runs the mutations, prints the table, returns the exit status."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    failure = first_failure(None)
    if failure:
        sys.exit(f"The tests fail on the unbroken code: {failure}. Mend that first.")
    caught = 0
    print("| mutation | file | caught by | s |\n|---|---|---|---|")
    for mutation in chosen:
        start = time.monotonic()
        failure = first_failure(mutation)
        caught += failure is not None
        seconds = time.monotonic() - start
        print(f"| {mutation.name} | {mutation.file} | {failure or '**nothing**'} | {seconds:.0f} |", flush=True)
    print(f"\n{caught} of {len(chosen)} caught")
    return int(caught < len(chosen))


def first_failure(mutation: Mutation | None) -> str | None:
    """The first test that fails on a copy with the mutation, None if all pass."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("keras_tfcl", "tests"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutation is not None:
            break_copy(Path(folder) / "keras_tfcl" / mutation.file, mutation)
        tests = SUITE if mutation is None else [mutation.first, *(file for file in SUITE if file != mutation.first)]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].split("/")[-1] if failed else f"pytest exit status {done.returncode}"


def break_copy(file: Path, mutation: Mutation) -> None:
    """Writes the mutation into the copy; raises ValueError if there is nothing to replace."""
    text = file.read_text()
    if mutation.old not in text:
        raise ValueError(f"{mutation.file} no longer holds {mutation.old!r}: mend the mutation {mutation.name!r}.")
    file.write_text(text.replace(mutation.old, mutation.new, 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
