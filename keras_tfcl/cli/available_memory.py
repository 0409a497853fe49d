"""How much memory a training run can count on."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

UNKNOWN = 8 * 2**30  # bytes, of a GPU, or of a system that does not say


def available_memory() -> int:
    """Bytes that can be used without swapping: of the machine, or 8 GiB where there is a GPU."""
    facts = Path("/proc/meminfo")
    if tf.config.list_physical_devices("GPU") or not facts.exists():
        return UNKNOWN
    lines = dict(line.split(":", 1) for line in facts.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
