"""From a Keras model to an ONNX file that is there only if it is right."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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
from keras_tfcl.export.runtime.atomic_write import atomic_write, check_target
from keras_tfcl.export.runtime.images import image_rule
from keras_tfcl.export.runtime.metadata import check_notes
from keras_tfcl.export.runtime.model_file import content_hash
from keras_tfcl.export.runtime.requirements import require
from keras_tfcl.export.runtime.typing import Inputs
from keras_tfcl.export.verify import Comparison, check_file, check_model

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
    opset: int = 17,
    samples: Inputs | None = None,
    tokenizer: object = None,
    notes: Mapping[str, object] | None = None,
    allow_mismatch: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Write the encoder of `model` as an ONNX file, and prove that it gives the same embeddings.

    The graph computes `model(x, training=False)` in float32, and e / |e|₂ of it when `normalize`. Its input is called
    `image` (rank 4), `tokens` (integers, rank 2) or `features`; several inputs keep their names. Its output is
    `embedding`, `(batch, D)`, with a free batch. Before the file gets its name it is checked against the ONNX standard,
    loaded in onnxruntime, and compared with the model on `samples` and on synthetic inputs: random ones at batch 1 and
    7, zeros, constants and padding, negative and large integers, and odd, small and large sizes, as far as the model
    takes them. Differences up to 1e-4 of the embeddings' scale and cosines of at least 0.99999 pass; a row in a batch
    of 32 must equal the row alone. Whatever fails, and a kill at any moment, leaves no new file and keeps an old one.

    A model in mixed precision, float16 or bfloat16 is written, and compared, in float32 with the same weights; the
    report tells how far its own embeddings are from that. Weights beyond 2 GiB, which one ONNX file cannot hold, go to
    a second file `<path>.<hash>.data` beside it, which must be copied with it.

    This is not `model.export(format="onnx")`, which makes none of these checks. While it traces the model it switches
    the whole process to eager functions, so do not export while another thread trains.

    Args:
        model: a `keras.Model` from a batch of inputs to one `(batch, D)` embedding, exported as `model(x)` whatever
            its attributes are called; or a `ContrastiveModel`, of which `model.encoder` is exported.
        path: the file to write, in a folder that exists.
        projector: keep the projector of a `ContrastiveModel` behind its encoder.
        normalize: divide each embedding by its length, inside the graph. Rows of zeros stay zeros.
        preprocessing: a Keras layer or model to put before the encoder inside the file, such as
            `keras.layers.Rescaling(1 / 255)`. A model with inputs of its own declares those of the file.
        input_dtype: type of the float inputs in the file, converted to the model's inside, such as "uint8" for pixels.
        opset: ONNX operator set, from 13 to the newest that tf2onnx writes (18 with tf2onnx 1.17).
        samples: rows of real input to compare on besides synthetic ones: an array, a tuple of arrays, or a dict by
            input name. Needed for a subclassed model that was never called, or that holds an `Embedding`, whose
            input type it does not record. They are not stored.
        tokenizer: what makes tokens of texts, stored in the file, so that `OnnxEncoder(path).encode(["a text"])` works:
            a `tokenizers.Tokenizer` (Hugging Face), its JSON or the path of that, or a `keras.layers.TextVectorization`
            that a tokenizer can express, checked on texts. It fills the input of the tokens and, by their names,
            `attention_mask` or `padding_mask` and `token_type_ids` or `segment_ids`.
        notes: what else a server should know, stored in the metadata as JSON, at most 32 KiB. `notes["image"]` says
            how images become rows: a dict with `range`, `size`, `resize` or `interpolation`.
        allow_mismatch: write the file with a `ParityWarning` although its embeddings differ.
        progress: called with the name of each stage as it starts, such as `print`. The conversion can take a minute.

    Returns:
        An `ExportReport`; `print` it.

    Raises:
        UnsupportedLayerError: a layer is known to convert wrongly; the message names it and what to do instead.
        UnsupportedOpError: an operation has no ONNX counterpart.
        ModelInputError, ModelOutputError: the model is not a function from arrays to one embedding.
        InputError: `samples` do not fit, no server could read images by `notes["image"]`, or the inputs are not those
            of a tokenizer.
        NonFiniteError: a weight is NaN, or a trained one infinite; the message names its layer.
        ParityError: the embeddings differ and `allow_mismatch` is False.
        VerificationError: the file is not valid, or rows of a batch influence one another.
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
    progress = progress or _say_nothing
    path = _check_arguments(path, opset, notes)
    progress("look at the layers")
    source = read_source(
        model, projector=projector, samples=samples, preprocessing=preprocessing, input_dtype=input_dtype
    )
    _check_image_note(source, notes or {}, path)
    text = None if tokenizer is None else tokenizer_json(tokenizer)
    lint_weights(source)
    with computing_in_float32(source.layers) as precision, atomic_write(path) as draft:
        lint_layers(source)
        if text:
            check_tokenizer(text, source, path)
        progress("embed rows to compare with")
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
        progress("move into place")
    seconds = time.perf_counter() - started
    return make_report(path, opset, source.inputs, card, comparison.parity, hints(source.layers), seconds)


def _say_nothing(stage: str) -> None:
    return None


def _check_arguments(path: str | os.PathLike[str], opset: int, notes: Mapping[str, object] | None) -> Path:
    """Return the path, after all that can be found wrong before any work."""
    for module, extra in (("tf2onnx", "export"), ("onnx", "export"), ("onnxruntime", "serve")):
        require(module, extra)
    if opset not in supported_opsets():
        raise ValueError(
            f"`opset` must be an integer from {supported_opsets()[0]} to {supported_opsets()[-1]}. Received: "
            f"opset={opset!r}. Use 17, which every onnxruntime since 1.12 reads."
        )
    check_notes(notes)
    check_target(Path(path))
    check_eager()
    return Path(path)


def _check_image_note(source: Source, notes: Mapping[str, object], path: Path) -> None:
    """Refuse a note on images by which no server could read one."""
    if "image" in notes and len(source.inputs) == 1 and len(source.inputs[0].shape) == 4:
        image_rule(source.inputs, {"preprocessing": describe_preprocessing(source), "notes": notes}, path)


def _report_mismatch(
    comparison: Comparison, onnx_model: onnx.ModelProto, source: Source, normalize: bool, allow_mismatch: bool
) -> None:
    if allow_mismatch:
        text = comparison.mismatch_text("It is written nevertheless: allow_mismatch=True.")
        warnings.warn(text, ParityWarning, stacklevel=3)
        return
    found = differing_operations(onnx_model, source, normalize, comparison.worst.inputs)
    look = f"Look at {'; '.join(found)}" if found else "Look for an operation that ONNX defines otherwise"
    raise ParityError(
        comparison.mismatch_text(
            f"{look}: move it outside the model or write it otherwise; or accept the difference with "
            f"allow_mismatch=True."
        )
    )
