"""Embeddings from an ONNX file, with NumPy and onnxruntime only."""
