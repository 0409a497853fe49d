"""From a Keras encoder to a verified ONNX file, and from that file to embeddings.

`OnnxEncoder` needs NumPy and onnxruntime alone: what converts Keras models is imported only when it is asked for, and
TensorFlow, Keras and ONNX only when a call needs them.
"""

from typing import TYPE_CHECKING

from keras_tfcl.export.errors import (
    BatchInvarianceError,
    ExportError,
    InputError,
    ModelFileError,
    ModelInputError,
    ModelOutputError,
    NonFiniteError,
    ParityError,
    ParityWarning,
    ProviderError,
    ProviderWarning,
    QuantizationError,
    RecallError,
    UnsupportedLayerError,
    UnsupportedOpError,
    VerificationError,
)
from keras_tfcl.export.quantize import quantize, to_float16
from keras_tfcl.export.quantized_model import QuantizationReport
from keras_tfcl.export.recall import Recall, compare_neighbours
from keras_tfcl.export.report import ExportReport
from keras_tfcl.export.runtime.encoder import OnnxEncoder
from keras_tfcl.export.runtime.golden_inputs import check_probes
from keras_tfcl.export.runtime.index import Hit, Index
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.parity import Parity

if TYPE_CHECKING:
    from keras_tfcl.export.export import export_onnx
    from keras_tfcl.export.verify import verify_onnx

__all__ = [
    "BatchInvarianceError",
    "ExportError",
    "ExportReport",
    "Hit",
    "Index",
    "InputError",
    "InputSpec",
    "ModelFileError",
    "ModelInputError",
    "ModelOutputError",
    "NonFiniteError",
    "OnnxEncoder",
    "Parity",
    "ParityError",
    "ParityWarning",
    "ProviderError",
    "ProviderWarning",
    "QuantizationError",
    "QuantizationReport",
    "Recall",
    "RecallError",
    "UnsupportedLayerError",
    "UnsupportedOpError",
    "VerificationError",
    "check_probes",
    "compare_neighbours",
    "export_onnx",
    "quantize",
    "to_float16",
    "verify_onnx",
]


def __getattr__(name: str) -> object:
    if name == "export_onnx":
        from keras_tfcl.export.export import export_onnx

        function: object = export_onnx
    elif name == "verify_onnx":
        from keras_tfcl.export.verify import verify_onnx

        function = verify_onnx
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = function
    return function
