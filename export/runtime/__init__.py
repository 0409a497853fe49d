"""Embeddings from an ONNX file: NumPy and onnxruntime, and nothing else."""
