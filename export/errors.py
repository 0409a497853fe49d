"""The errors and warnings of `keras_tfcl.export`, one class for each kind of failure."""

from __future__ import annotations

import re


class ExportError(Exception):
    """Base of every error of `keras_tfcl.export`. An export that raises leaves no new file and keeps an old one."""


class ModelInputError(ExportError):
    """The input of the model is unknown, or ONNX cannot represent it."""


class ModelOutputError(ExportError):
    """The model does not return one finite `(batch, D)` embedding."""


class UnsupportedLayerError(ExportError):
    """A layer is known to convert wrongly or not at all. Raised before the conversion."""


class UnsupportedOpError(ExportError):
    """An operation has no counterpart in ONNX, or onnxruntime cannot run it."""


class VerificationError(ExportError):
    """The converted file is not valid, or its interface or values are wrong."""


class ParityError(VerificationError):
    """The file runs, but its embeddings differ from the Keras model's."""


class BatchInvarianceError(VerificationError):
    """An embedding depends on the other rows of its batch."""


class QuantizationError(ExportError):
    """A file cannot be quantized, or the quantized model does not run."""


class RecallError(QuantizationError):
    """A quantized model shares fewer neighbours with its float model than `min_recall`."""


class ModelFileError(ExportError, ValueError):
    """The file is not an ONNX encoder that can be served."""


class InputError(ExportError, ValueError):
    """The arrays given to an encoder do not fit its inputs."""


class NonFiniteError(ExportError, ArithmeticError):
    """Finite inputs gave NaN or infinite embeddings."""


class ProviderError(ExportError, RuntimeError):
    """A requested execution provider is not the one that runs the model (`strict_providers=True`)."""


class ParityWarning(UserWarning):
    """A file was written or loaded although its embeddings differ from the Keras model's."""


class ProviderWarning(UserWarning):
    """A requested execution provider is not the one that runs the model."""


def text_of(error: BaseException) -> str:
    """Return the class and message of another library's error.

    Without the terminal colours that Keras puts in, and without TensorFlow's advice on AutoGraph, which does not run
    here.
    """
    text = re.sub(r"\x1b\[\d*m", "", f"{type(error).__name__}: {error}")
    return text.partition(". You can attempt the following resolutions")[0]
