"""Convert a Keras model to an ONNX graph: the part of the export that needs TensorFlow and tf2onnx."""
