"""The checks that a converted file must pass before it is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from keras_tfcl.export.errors import (
    BatchInvarianceError,
    ModelFileError,
    ParityError,
    UnsupportedOpError,
    VerificationError,
)
from keras_tfcl.export.keras_to_onnx import blame
from keras_tfcl.export.keras_to_onnx.golden_inputs import Golden, make_golden_inputs, rounding_noise
from keras_tfcl.export.keras_to_onnx.model_card import describe_preprocessing
from keras_tfcl.export.keras_to_onnx.source import OUTPUT, Source, computing_in_float32, hash_weights, read_source
from keras_tfcl.export.runtime.batches import pad_rows
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.metadata import KEY, Metadata
from keras_tfcl.export.runtime.parity import MIN_COSINE, RELATIVE_TOLERANCE, Parity, compare
from keras_tfcl.export.runtime.providers import choose_providers, load_onnxruntime
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.session import open_session
from keras_tfcl.export.runtime.typing import Inputs

if TYPE_CHECKING:
    import keras
    import onnx
    import onnxruntime

_WIDE = 32  # rows in the batch that shows whether rows influence one another
_MOST_NUMBERS = 8_000_000  # in one input of that batch; large images get fewer rows
_NOISE_FACTOR = 10  # an embedding that moves by a tenth of the difference under rounding is noise


def verify_onnx(
    path: str | os.PathLike[str],
    model: keras.Model,
    samples: Inputs | None = None,
    *,
    preprocessing: keras.Layer | None = None,
) -> Parity:
    """Check that an exported file is valid, runs, and computes the embeddings of `model`.

    It makes every check of `export_onnx`: operations, interface, validity, loading in onnxruntime, embeddings of
    synthetic inputs and of `samples`, and that the embedding of a sample does not depend on its batch. On a server
    without Keras, use `check_probes`.

    Args:
        path: a file written by `export_onnx`.
        model: the model it was exported from, or one with the same weights.
        samples: real samples: an array, a tuple of arrays, or a dict by input name.
        preprocessing: the one given to `export_onnx`.

    Returns:
        The differences found, all within tolerance.

    Raises:
        ParityError: the embeddings differ.
        VerificationError: another check fails.
        ModelFileError: the file was not written by `export_onnx`, or is damaged.

    Example:

    >>> verify_onnx("encoder.onnx", model).passed                   # doctest: +SKIP
    True
    """
    path = Path(path)
    encoder = OnnxEncoder(path, providers="cpu")
    metadata = encoder.metadata
    if "normalized" not in metadata:
        raise ModelFileError(
            f"Expected a file written by export_onnx. Received: {path}, without the metadata `{KEY}`. Export again."
        )
    source = read_source(
        model, projector=metadata.get("projector") == "kept", samples=samples, preprocessing=preprocessing
    ).with_batch(encoder.inputs[0].shape[0])
    if len(source.inputs) == len(encoder.inputs):
        source = replace(source, inputs=_with_dtypes(source.inputs, encoder.inputs))
    with computing_in_float32(source.layers):
        golden = make_golden_inputs(source, normalize=metadata["normalized"], samples=samples)
        if source.inputs != encoder.inputs:
            raise VerificationError(
                f"The file must take the inputs of the model, {'; '.join(map(str, source.inputs))}. Received: "
                f"{'; '.join(map(str, encoder.inputs))}. {_remedy(metadata, source, preprocessing)}"
            )
        onnx_model = require("onnx", "export").load(path, load_external_data=False)
        check_model(onnx_model, source, dimension=golden[0].reference.shape[1])
        comparison = check_file(path, onnx_model, source, golden, metadata["normalized"])
    if not comparison.parity.passed:
        raise ParityError(comparison.mismatch_text(_remedy(metadata, source, preprocessing)))
    return comparison.parity


def _remedy(metadata: Metadata, source: Source, preprocessing: keras.Layer | None) -> str:
    """Suggest why the file does not match: `preprocessing` that was not passed again, or other weights."""
    same = metadata.get("weights_sha256") == hash_weights(source.weights)
    remedy = "Export again." if same else "The weights of the model are not those in the file: export again."
    if preprocessing is not None:
        return remedy
    give = "give the same to verify_onnx(path, model, preprocessing=...) in Python."
    inside = (metadata.get("preprocessing") or {}).get("inside") or []
    if len(inside) > len(describe_preprocessing(source)["inside"]):
        return f"The export had `preprocessing`: {give}"
    return f"{remedy} If the export had `preprocessing`, {give}"


def _with_dtypes(wanted: Sequence[InputSpec], received: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Use the dtypes of float inputs in the file, which `input_dtype` may have changed."""
    return tuple(
        replace(spec, dtype=found.dtype) if "float" in spec.dtype else spec
        for spec, found in zip(wanted, received, strict=True)
    )


def check_model(model: onnx.ModelProto, source: Source, dimension: int) -> None:
    """Check that an ONNX model holds standard operations alone and has the declared interface.

    tf2onnx writes operations that ONNX lacks and inputs that were not declared, and reports neither; `onnx.checker`
    accepts both.

    Raises:
        UnsupportedOpError: an operation is not in the ONNX standard.
        VerificationError: the interface differs.
    """
    onnx = require("onnx", "export")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    nodes = [*blame.nodes_of(model.graph), *(node for function in model.functions for node in function.node)]
    unknown = [blame.describe_node(node, source.layers) for node in nodes if not _in_standard(onnx, node, opsets)]
    if unknown:
        raise UnsupportedOpError(
            f"Every operation must be in ONNX opset {opsets.get('')}. Received: {'; '.join(dict.fromkeys(unknown))}. "
            f"Move it outside the model, write it with other keras.ops, or try a higher `opset`."
        )
    received = [str(_spec(onnx, tensor)) for tensor in (*model.graph.input, *model.graph.output)]
    batch = source.inputs[0].shape[0]
    expected = [str(spec) for spec in (*source.inputs, InputSpec(OUTPUT, "float32", (batch, dimension)))]
    if received != expected:
        raise VerificationError(
            f"Expected the inputs and output {expected}. Received: {received}. A layer may hold a constant that the "
            f"conversion turned into an input: make it a weight."
        )


def _in_standard(onnx: ModuleType, node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    try:
        onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 0), node.domain)
    except onnx.defs.SchemaError:
        return False
    return True


def _spec(onnx: ModuleType, value: onnx.ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return InputSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)


@dataclass(frozen=True)
class Comparison:
    """How far a file is from its model, and the inputs on which it is farthest."""

    parity: Parity
    worst: Golden

    def mismatch_text(self, remedy: str) -> str:
        """Describe the difference between the embeddings of the file and of the model."""
        return (
            f"The file must give the embeddings of the model: difference at most {RELATIVE_TOLERANCE:g} of their "
            f"scale, cosine of each row at least {MIN_COSINE}. Received: {self.parity}, on {self.worst.about}. {remedy}"
        )


def check_file(
    path: Path, model: onnx.ModelProto, source: Source, golden: Sequence[Golden], normalize: bool
) -> Comparison:
    """Check the file at `path`, which holds `model`, and compare its embeddings; the caller judges the comparison.

    Raises:
        UnsupportedOpError: onnxruntime cannot load an operation.
        VerificationError: the file is not valid, does not run, or gives NaN or infinity.
        BatchInvarianceError: an embedding depends on the other rows of its batch.
    """
    onnx = require("onnx", "export")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"Expected a valid ONNX model. Received: {error}. Please report this model.") from error
    session = _load(path, model, source)
    parities = [_compare(session, model, source, batch, normalize) for batch in golden]
    parity = _compare_with_wide_batch(session, model, source, golden[1])
    if not parity.passed:
        found = "; ".join(blame.batch_reductions(model, source.layers)) or "an operation across rows"
        raise BatchInvarianceError(
            f"A row must have the same embedding alone and in a batch. Received: {parity} between the two. Look at "
            f"{found}: let no layer use statistics of its batch when `training` is False."
        )
    _, worst = max(
        zip(parities, golden, strict=True),
        key=lambda pair: (not pair[0].passed, pair[0].relative_diff, -pair[0].min_cosine),
    )
    return Comparison(Parity.worst(parities), worst)


def _load(path: Path, model: onnx.ModelProto, source: Source) -> onnxruntime.InferenceSession:
    ort = load_onnxruntime()
    try:
        return open_session(ort, path, choose_providers(ort, "cpu"), threads=None, low_memory=False, spinning=False)
    except ModelFileError as error:
        blamed = "; ".join(blame.failing_nodes(error, model, source.layers)) or "an unnamed one"
        raise UnsupportedOpError(
            f"Every operation must run in onnxruntime. Received: {blamed}. {str(error).replace(str(path), path.name)} "
            f"Do this step outside the model, or in another way."
        ) from error


def _compare(
    session: onnxruntime.InferenceSession, model: onnx.ModelProto, source: Source, batch: Golden, normalize: bool
) -> Parity:
    """Compare the embeddings of one batch; for edge inputs, ignore differences within rounding noise."""
    embeddings = _embed(session, model, source, batch)
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        found = "; ".join(blame.differing_operations(model, source, normalize, batch.inputs))
        raise VerificationError(
            f"The file must give finite embeddings where the model does. Received: NaN or infinity on {batch.about}. "
            f"Look at {found or 'divisions and logarithms'}, or move it outside the model."
        )
    parity = compare(batch.reference, embeddings)
    if parity.passed or not batch.edge:
        return parity
    noise = rounding_noise(source, batch, normalize)
    meant = np.abs(batch.reference - embeddings).max(axis=1) > _NOISE_FACTOR * noise
    return compare(batch.reference[meant], embeddings[meant]) if meant.any() else Parity(0.0, parity.scale, 1.0, 0)


def _compare_with_wide_batch(
    session: onnxruntime.InferenceSession, model: onnx.ModelProto, source: Source, batch: Golden
) -> Parity:
    """Compare embeddings of single samples with embeddings of the same samples in one batch."""
    rows = max(2, min(_WIDE, _MOST_NUMBERS // max(array[0].size for array in batch.inputs)))
    wide = [np.resize(array, (rows, *array.shape[1:])) for array in batch.inputs]  # repeated
    parts = [[array[row : row + 1] for array in wide] for row in range(rows)]
    alone = [_embed(session, model, source, replace(batch, inputs=tuple(part))) for part in parts]
    return compare(np.concatenate(alone), _embed(session, model, source, replace(batch, inputs=tuple(wide))))


def _embed(session: onnxruntime.InferenceSession, model: onnx.ModelProto, source: Source, batch: Golden) -> np.ndarray:
    count = len(batch.inputs[0])
    size = source.inputs[0].shape[0] or count
    names = [spec.name for spec in source.inputs]
    expected = (count, batch.reference.shape[1])
    try:
        runs = [
            session.run(
                None,
                {
                    name: pad_rows(array[start : start + size], size)
                    for name, array in zip(names, batch.inputs, strict=True)
                },
            )[0]
            for start in range(0, count, size)
        ]
    except Exception as error:  # onnxruntime's exceptions share no public base class
        found = "; ".join(blame.failing_nodes(error, model, source.layers))
        raise VerificationError(
            f"The file must run on what the model embeds. Received: {batch.about}, which onnxruntime rejects in "
            f"{found or 'an unnamed operation'}: {error}. Move this step outside the model, or declare its sizes: "
            f"keras.Input(shape)."
        ) from error
    embeddings = np.concatenate(runs)[:count]
    if embeddings.shape != expected:
        raise VerificationError(f"The file must give embeddings {expected}. Received: {embeddings.shape}.")
    return embeddings
