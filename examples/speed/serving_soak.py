"""Overloads the server for minutes: `python examples/speed/serving_soak.py --minutes 10`.

Clients that never pause send more rows than the model can embed to a server with a short queue. Every request must be
answered, by 200 with the right embeddings or by 429, and the memory of the server must not grow. At the end the server
gets SIGTERM under this load: what it has accepted must be answered. Prints the memory and the answers by interval,
writes them to examples/results/serving_soak.csv, and exits with 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from serving_clients import tensor_request

from keras_tfcl.export import OnnxEncoder, export_onnx

RESULTS = Path(__file__).parents[1] / "results"
ROWS = 4  # in a request
GROWTH = 1.10  # of the memory, from the second tenth of the time to the last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        export_onnx(small_encoder(), path)
        command = [Path(sys.executable).with_name("keras-tfcl"), "serve", path, "--port", "0", "--max-queue", "64"]
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as server:
            line = server.stdout.readline() if server.stdout else ""
            port = int(line.rsplit(":", 1)[1])
            soak = Soak(OnnxEncoder(path), port, server.pid)
            asyncio.run(soak.run(60 * options.minutes, options.clients))
            code = server.wait(60)
    with (options.results / "serving_soak.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", "server_MiB", "answers_200", "answers_429", "other"])
        writer.writerows(soak.rows)
    sys.exit(soak.verdict(code))


def small_encoder() -> object:
    from inference_models import keras_model

    return keras_model("small")


class Soak:
    """Clients of one server, and what they saw."""

    def __init__(self, encoder: OnnxEncoder, port: int, pid: int) -> None:
        self.port, self.pid = port, pid
        spec = encoder.inputs[0]
        x = np.random.default_rng(0).normal(size=(ROWS, *spec.shape[1:])).astype("float32")
        self.request = tensor_request(spec.name, [ROWS, *spec.shape[1:]], x.tobytes())
        self.expected = encoder.encode(x)
        self.answers: Counter[str] = Counter()
        self.rows: list[tuple[object, ...]] = []
        self.stopping = False

    async def run(self, seconds: float, clients: int) -> None:
        tasks = [asyncio.create_task(self.client()) for _ in range(clients)]
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            await asyncio.sleep(min(5.0, seconds / 20))
            known = {status: self.answers[status] for status in ("200", "429")}
            row = (
                round(elapsed),
                round(resident(self.pid), 1),
                *known.values(),
                self.answers.total() - sum(known.values()),
            )
            self.rows.append(row)
            print(*row, flush=True)
        self.stopping = True
        os.kill(self.pid, signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*tasks), 60)

    async def client(self) -> None:
        while not self.stopping:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.answers["refused"] += not self.stopping
                continue
            with contextlib.closing(writer):
                while not self.stopping and await self.ask(reader, writer):
                    pass

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request and count its answer; whether the connection can be used again."""
        writer.write(self.request)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            body = await reader.readexactly(int(fields[b"content-length"]))
        except (asyncio.IncompleteReadError, OSError) as error:
            # uvicorn closes idle connections when it stops: a request that crosses this was not accepted
            self.answers["closed while stopping" if self.stopping else f"unanswered: {error}"] += 1
            return False
        status = head.split()[1].decode()
        if status == "200":
            found = np.frombuffer(body[int(fields[b"inference-header-content-length"]) :], "<f4")
            if not np.allclose(found.reshape(self.expected.shape), self.expected, atol=1e-5):
                status = "200 with other embeddings"
        self.answers[status] += 1
        return fields.get(b"connection") != b"close"

    def verdict(self, code: int) -> str | int:
        """What is wrong, or 0."""
        print(dict(self.answers))
        memory = [float(str(row[1])) for row in self.rows]
        tenth = max(1, len(memory) // 10)
        before, after = statistics.median(memory[tenth : 2 * tenth]), statistics.median(memory[-tenth:])
        print(f"memory: {before:.1f} MiB in the second tenth, {after:.1f} MiB in the last, highest {max(memory):.1f}")
        if set(self.answers) - {"200", "429", "closed while stopping"} or not self.answers["200"]:
            return "A request was not answered by 200 or 429."
        if after > GROWTH * before:
            return "The memory of the server grew."
        return 0 if code in (0, 128 + signal.SIGTERM) else f"The server ended with {code}."


def resident(pid: int) -> float:
    """Memory of a process in MiB. Linux."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
