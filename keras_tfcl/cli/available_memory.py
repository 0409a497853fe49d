"""How much memory a training run can count on."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

UNKNOWN = 8 * 2**30  # bytes, of a GPU, or of a system that does not say
# Of a container, of version 2 and 1 of cgroups: a number of bytes, or "max".
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_memory() -> int:
    """Bytes that can be used without swapping: of the machine or the container, or 8 GiB where there is a GPU."""
    facts = Path("/proc/meminfo")
    if tf.config.list_physical_devices("GPU") or not facts.exists():
        return UNKNOWN
    lines = dict(line.split(":", 1) for line in facts.read_text().splitlines())
    limits = [file.read_text().strip() for file in LIMITS if file.exists()]
    return min([1024 * int(lines["MemAvailable"].split()[0]), *(int(limit) for limit in limits if limit.isdigit())])
