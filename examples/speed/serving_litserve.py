"""The same file behind LitServe, which gathers requests into batches: `python serving_litserve.py ENCODER PORT`.

LitServe takes JSON, so the row comes and the embedding goes in base64. One worker process, batches of up to 64.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0]

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        return np.frombuffer(base64.b64decode(request["row"]), "float32").reshape(self.input.shape[1:])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.input.name: rows})[0]

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"embedding": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=64, batch_timeout=0.002), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
