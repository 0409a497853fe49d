"""What one would write in ten minutes: FastAPI, and one run of onnxruntime for each request."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request, Response

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
app = FastAPI()


@app.post("/v2/models/encoder/infer")
async def infer(request: Request) -> Response:
    body = await request.body()
    length = int(request.headers["inference-header-content-length"])
    tensor = json.loads(body[:length])["inputs"][0]
    rows = np.frombuffer(body[length:], "float32").reshape(tensor["shape"])
    (embeddings,) = session.run(None, {tensor["name"]: rows})
    return Response(embeddings.tobytes())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
