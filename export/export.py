"""Exports a Keras model to an ONNX file, which is written only if it matches the model."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from keras_tfcl.atomic_write import atomic_write, check_target
from keras_tfcl.export.errors import ParityError, ParityWarning
from keras_tfcl.export.keras_to_onnx.blame import differing_operations
from keras_tfcl.export.keras_to_onnx.convert import check_eager, convert, supported_opsets
from keras_tfcl.export.keras_to_onnx.external_data import choose_external, store_external
from keras_tfcl.export.keras_to_onnx.golden_inputs import make_golden_inputs
from keras_tfcl.export.keras_to_onnx.model_card import add_metadata, describe, describe_preprocessing
from keras_tfcl.export.keras_to_onnx.source import Source, computing_in_float32, read_source
from keras_tfcl.export.keras_to_onnx.tokenizer import check_tokenizer, tokenizer_json
from keras_tfcl.export.keras_to_onnx.unsupported import hints, lint_layers, lint_weights
from keras_tfcl.export.report import ExportReport, make_report
from keras_tfcl.export.runtime.images import image_rule
from keras_tfcl.export.runtime.metadata import check_notes
from keras_tfcl.export.runtime.model_file import content_hash
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import Inputs
from keras_tfcl.export.verify import Comparison, check_file, check_model
from keras_tfcl.validation import positive_integer

if TYPE_CHECKING:
    import keras
    import onnx

_MAX_BYTES = (1 << 31) - (1 << 24)  # protobuf's limit for one message, less room for the graph around the weights


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    projector: bool = False,
    normalize: bool = True,
    preprocessing: keras.Layer | None = None,
    input_dtype: str | None = None,
    batch_size: int | None = None,
    opset: int = 17,
    samples: Inputs | None = None,
    tokenizer: object = None,
    notes: Mapping[str, object] | None = None,
    allow_mismatch: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write the encoder of `model` as an ONNX file, and verify that it computes the same embeddings.

    The graph computes `model(x, training=False)` in float32 and, with `normalize`, divides each embedding e by |e|₂.
    Its input is named `image` (rank 4), `tokens` (integers, rank 2) or `features`; several inputs keep their names. Its
    output `embedding` is `(batch, D)` with a free batch, unless `batch_size` fixes it.

    The file is checked before it is renamed to `path`. It must follow the ONNX standard, load in onnxruntime, and match
    the model on `samples` and on synthetic inputs: random inputs at batch 1 and 7, zeros, constants and padding,
    negative and large integers, and odd, small and large sizes, as far as the model accepts them. Embeddings match if
    they differ by at most 1e-4 of their scale and their cosines are at least 0.99999. The embedding of a sample in a
    batch of 32 must equal its embedding alone. If a check fails, or the process is killed at any time, no new file is
    written and an existing file is kept.

    A model in mixed precision, float16 or bfloat16 is written and compared in float32 with the same weights. The report
    gives the difference to the model's own embeddings. One ONNX file holds at most 2 GiB of weights; beyond that, the
    largest weights go to a second file `<path>.<hash>.data` in the same folder. Copy both files together.

    `model.export(format="onnx")` makes none of these checks. While this function traces the model, it switches the
    whole process to eager functions, so do not export while another thread trains.

    Args:
        model: a `keras.Model` from a batch of inputs to one `(batch, D)` embedding, exported as `model(x)` whatever
            the names of its attributes; or a `ContrastiveModel`, of which `model.encoder` is exported.
        path: the file to write, in a folder that exists.
        projector: whether to keep the projector of a `ContrastiveModel` after its encoder.
        normalize: whether to L2-normalise embeddings inside the graph. An embedding of zeros stays zeros.
        preprocessing: a Keras layer or model that runs before the encoder inside the file, such as
            `keras.layers.Rescaling(1 / 255)`. If it is a model with inputs, the file has the same inputs.
        input_dtype: dtype of float inputs in the file, such as "uint8" for pixels; the graph converts them.
        batch_size: a positive integer to fix the batch, for consumers that need it, such as some versions of OpenCV and
            TensorRT. The file then runs exactly that many samples; `OnnxEncoder` pads the last run. Defaults to None.
        opset: ONNX operator set, from 13 to the newest that tf2onnx writes (18 with tf2onnx 1.17).
        samples: real samples, on which the file and the model are compared as well: an array, a tuple of arrays, or a
            dict by input name. A subclassed model that was never called, or that holds an `Embedding`, needs them,
            because it does not record the dtype of its input. They are not stored.
        tokenizer: the tokenizer, which is stored in the file, so that `OnnxEncoder(path).encode(["a text"])` works: a
            `tokenizers.Tokenizer` (Hugging Face), its JSON or the path of that, or a `keras.layers.TextVectorization`
            that a tokenizer can express, checked on texts. It fills the input of the tokens and, by their names,
            `attention_mask` or `padding_mask` and `token_type_ids` or `segment_ids`.
        notes: your own metadata, stored as JSON, at most 32 KiB. `notes["image"]` says how images are prepared: a dict
            with `range`, `size`, `resize` or `interpolation`.
        allow_mismatch: whether to write the file, with a `ParityWarning`, if its embeddings differ.
        progress: a function, such as `print`, that is called with the name of each stage as it starts. The conversion
            can take a minute.

    Returns:
        An `ExportReport`, which can be printed.

    Raises:
        UnsupportedLayerError: a layer is known to convert wrongly; the message names it and a remedy.
        UnsupportedOpError: an operation has no ONNX counterpart.
        ModelInputError, ModelOutputError: the model is not a function from arrays to one embedding.
        InputError: `samples` do not fit, `notes["image"]` is not a valid rule for images, or the inputs are not those
            of a tokenizer.
        NonFiniteError: a weight is NaN, or a trained one infinite; the message names its layer.
        ParityError: the embeddings differ and `allow_mismatch` is False.
        VerificationError: the file is not valid, or the samples of a batch influence one another.
        TypeError, ValueError, FileNotFoundError: an argument is wrong.
        RuntimeError: the call is inside a `tf.function` or a `tf.Graph`.
        ImportError: a package is missing; the message names the extra.

    Example:

    >>> import keras
    >>> encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> report = export_onnx(encoder, "encoder.onnx")               # doctest: +SKIP
    >>> report.dimension, report.matches                            # doctest: +SKIP
    (4, True)
    """
    started = time.perf_counter()
    progress = progress or (lambda stage: None)
    path = _check_arguments(path, opset, batch_size, notes)
    progress("check the layers")
    source = read_source(
        model, projector=projector, samples=samples, preprocessing=preprocessing, input_dtype=input_dtype
    ).with_batch(batch_size)
    _check_image_note(source, notes or {}, path)
    text = None if tokenizer is None else tokenizer_json(tokenizer)
    lint_weights(source)
    with computing_in_float32(source.layers) as precision, atomic_write(path) as draft:
        lint_layers(source)
        if text:
            check_tokenizer(text, source, path)
        progress("embed samples for the comparison")
        golden = make_golden_inputs(source, normalize=normalize, samples=samples)
        lint_layers(source)  # again: calling the model may just have built layers
        dimension = golden[0].reference.shape[1]

        external = choose_external(source.weights, _MAX_BYTES)
        onnx_model = convert(
            source, dimension=dimension, normalize=normalize, opset=opset, external=external, progress=progress
        )
        check_model(onnx_model, source, dimension)
        card = describe(model, source, golden, normalize=normalize, precision=precision, notes=notes)
        card |= {"tokenizer": text} if text else {}
        if external:
            progress("write the weights beyond the limit of one file")
            card["data_file"] = store_external(draft, onnx_model, external).to_dict()
        content = onnx_model.SerializeToString()
        draft.write_bytes(content)

        progress("check the file and compare its embeddings")
        comparison = check_file(draft, onnx_model, source, golden, normalize)
        if not comparison.parity.passed:
            _report_mismatch(comparison, onnx_model, source, normalize, allow_mismatch)
        card |= {"parity": comparison.parity.to_dict(), "content_hash": content_hash(content)}
        add_metadata(draft, card)
        progress("rename the file")
    seconds = time.perf_counter() - started
    return make_report(path, opset, source.inputs, card, comparison.parity, hints(source.layers), seconds)


def _check_arguments(
    path: str | os.PathLike[str], opset: int, batch_size: int | None, notes: Mapping[str, object] | None
) -> Path:
    """Return the path, after all checks that need no work."""
    for module, extra in (("tf2onnx", "export"), ("onnx", "export"), ("onnxruntime", "serve")):
        require(module, extra)
    if opset not in supported_opsets():
        raise ValueError(
            f"`opset` must be an integer from {supported_opsets()[0]} to {supported_opsets()[-1]}. Received: "
            f"opset={opset!r}. Use 17, which every onnxruntime since 1.12 reads."
        )
    if batch_size is not None:
        positive_integer("batch_size", batch_size, "Leave it out for a free batch.")
    check_notes(notes)
    check_target(Path(path))
    check_eager()
    return Path(path)


def _check_image_note(source: Source, notes: Mapping[str, object], path: Path) -> None:
    """Raise an error for metadata on images that are not a valid rule."""
    if "image" in notes and len(source.inputs) == 1 and len(source.inputs[0].shape) == 4:
        image_rule(source.inputs, {"preprocessing": describe_preprocessing(source), "notes": notes}, path)


def _report_mismatch(
    comparison: Comparison, onnx_model: onnx.ModelProto, source: Source, normalize: bool, allow_mismatch: bool
) -> None:
    if allow_mismatch:
        text = comparison.mismatch_text("It is written because allow_mismatch=True.")
        warnings.warn(text, ParityWarning, stacklevel=3)
        return
    found = differing_operations(onnx_model, source, normalize, comparison.worst.inputs)
    look = f"Look at {'; '.join(found)}" if found else "Look for an operation that ONNX defines differently"
    raise ParityError(
        comparison.mismatch_text(
            f"{look}: move it outside the model or write it otherwise; or accept the difference with "
            f"allow_mismatch=True."
        )
    )
