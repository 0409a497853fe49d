"""Clients of a server: `python serving_clients.py PORT CLIENTS SECONDS FORM INPUT SIDE...` prints a line of JSON.

FORM is "tensor", a binary tensor of the Open Inference Protocol, or "json", a row in base64 to `/predict`.

Each client keeps one connection, sends a request that was prepared beforehand, and waits for the answer. The line also
holds the number of all answers, those of the warm-up included, and the CPU time that the clients took for them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time

import numpy as np

WARM_UP = 1.0  # seconds that do not count


async def client(
    port: int, request: bytes, until: float, since: float, times: list[float], failed: list[int], all_answers: list[int]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        now = time.perf_counter()
        all_answers.append(1)
        if now > since:
            times.append(now - started)
            if not head.startswith(b"HTTP/1.1 200"):
                failed.append(1)
    writer.close()


def tensor_request(name: str, shape: list[int], row: bytes) -> bytes:
    tensor = {"name": name, "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": len(row)}}
    output = {"name": "embedding", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    lines = [
        "POST /v2/models/encoder/infer HTTP/1.1",
        "Host: 127.0.0.1",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(row)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + head + row


def json_request(row: bytes) -> bytes:
    body = json.dumps({"row": base64.b64encode(row).decode()}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def main(port: int, clients: int, seconds: float, form: str, name: str, shape: list[int]) -> None:
    row = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype("float32").tobytes()
    request = json_request(row) if form == "json" else tensor_request(name, [1, *shape], row)
    times: list[float] = []
    failed: list[int] = []
    answers: list[int] = []
    cpu = time.process_time()
    since = time.perf_counter() + WARM_UP
    await asyncio.gather(
        *(client(port, request, since + seconds, since, times, failed, answers) for _ in range(clients))
    )
    cpu = time.process_time() - cpu
    p50, p95, p99 = (1e3 * float(q) for q in np.quantile(times, [0.5, 0.95, 0.99]))
    rate = len(times) / seconds
    measured = {"rows_per_second": rate, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "failed": len(failed)}
    print(json.dumps({**measured, "client_cpu_ms": 1e3 * cpu / len(answers), "answers": len(answers)}))


if __name__ == "__main__":
    port, clients, seconds, form, name, *shape = sys.argv[1:]
    asyncio.run(main(int(port), int(clients), float(seconds), form, name, [int(side) for side in shape]))
