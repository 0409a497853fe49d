"""Collect the samples of many requests into few runs of the model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from keras_tfcl.export.server.errors import QueueFullError
from keras_tfcl.export.server.metrics import Metrics

Rows = tuple[np.ndarray, ...]  # one array for each input of the model, all of the same length
Work = asyncio.Future[np.ndarray]  # the embeddings of rows in the queue


@dataclass
class _Job:
    """Rows of one request that go into one run together."""

    rows: Rows
    future: Work
    queued: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.rows[0])

    @property
    def shape(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Rows of one shape and type can share a run."""
        return tuple((array.shape[1:], array.dtype.str) for array in self.rows)


class MicroBatcher:
    """A bounded queue of rows, and one thread that embeds them.

    While a run is on its way new rows gather; the next run takes up to `max_batch_size` of them, the oldest first.
    Rows that nobody waits for any more are dropped before they run. If a run fails, its jobs are run one by one, so
    that bad rows fail alone.

    Args:
        encode: from rows to embeddings `(N, D)`; called in a thread of its own, one call at a time.
        max_batch_size: most rows in a run.
        max_queue: most rows that wait.
        wait: seconds that an idle thread waits for more rows before a run.
        metrics: counts what happens.
    """

    def __init__(
        self, encode: Callable[[Rows], np.ndarray], max_batch_size: int, max_queue: int, wait: float, metrics: Metrics
    ) -> None:
        self._encode, self._max_batch_size, self._max_queue, self._wait = encode, max_batch_size, max_queue, wait
        self._metrics = metrics
        self._jobs: deque[_Job] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to work off the queue, in the running event loop."""
        self._loop = asyncio.create_task(self._serve_queue())

    async def stop(self) -> None:
        """Ends the work; what still waits is cancelled."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for job in self._jobs:
            job.future.cancel()
        self._thread.shutdown(wait=True)

    def check_room(self, count: int) -> None:
        """Raises QueueFullError if too many rows wait already for `count` more."""
        # A request longer than the queue is let in when nothing waits: else it never could be.
        if self._waiting and self._waiting + count > self._max_queue:
            self._metrics.rejected.labels("queue_full").inc()
            raise QueueFullError(self._waiting)

    def embed(self, parts: Sequence[Rows]) -> list[Work]:
        """Queues the rows of one request, however many, and returns what will give their embeddings, in order.

        Args:
            parts: the rows, those of one shape together. `drop` takes them out of the queue.

        Raises:
            QueueFullError: too many rows wait already.
        """
        self.check_room(sum(len(rows[0]) for rows in parts))
        step = self._max_batch_size
        return [
            self._put(tuple(array[start : start + step] for array in rows))
            for rows in parts
            for start in range(0, len(rows[0]), step)
        ]

    def _put(self, rows: Rows) -> Work:
        job = _Job(rows, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._waiting += len(job)
        self._metrics.queued.set(self._waiting)
        self._arrived.set()
        return job.future

    async def _serve_queue(self) -> None:
        while True:
            self._arrived.clear()
            if not self._jobs:
                await self._arrived.wait()
                if self._wait:
                    await asyncio.sleep(self._wait)
            batch = self._next_batch()
            if batch:
                await self._run(batch)

    def _next_batch(self) -> list[_Job]:
        """The oldest jobs of one shape, as many as fit into a run; what nobody waits for is dropped."""
        batch: list[_Job] = []
        others: deque[_Job] = deque()
        size = 0
        while self._jobs:
            job = self._jobs.popleft()
            if job.future.done():
                self._waiting -= len(job)
                self._metrics.dropped.inc(len(job))
            elif batch and (job.shape != batch[0].shape or size + len(job) > self._max_batch_size):
                others.append(job)
                if size + len(job) > self._max_batch_size:
                    break
            else:
                batch.append(job)
                size += len(job)
        self._jobs.extendleft(reversed(others))
        self._waiting -= size
        self._metrics.queued.set(self._waiting)
        return batch

    async def _run(self, batch: list[_Job]) -> None:
        for job in batch:
            self._metrics.queue_seconds.observe(time.monotonic() - job.queued)
        started = time.monotonic()
        try:
            embeddings = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode_together, batch)
        # Whatever is raised, also for want of memory, belongs to the requests that caused it.
        except Exception as error:
            if len(batch) == 1:
                if not batch[0].future.done():
                    batch[0].future.set_exception(error)
                return
            for job in batch:
                if not job.future.done():
                    await self._run([job])
            return
        self._metrics.inference_seconds.observe(time.monotonic() - started)
        self._metrics.batch_size.observe(sum(map(len, batch)))
        start = 0
        for job in batch:
            if not job.future.done():
                job.future.set_result(embeddings[start : start + len(job)])
            start += len(job)

    def _encode_together(self, batch: list[_Job]) -> np.ndarray:
        return self._encode(tuple(np.concatenate(arrays) for arrays in zip(*(job.rows for job in batch), strict=True)))


def drop(work: Iterable[Work]) -> None:
    """Cancels what nobody waits for any more, and says nothing of its errors."""
    for future in work:
        if not future.cancel() and not future.cancelled():
            future.exception()
