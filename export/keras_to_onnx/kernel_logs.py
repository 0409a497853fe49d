"""Log lines of TensorFlow's kernels, which write to file descriptor 2 and know no `sys.stderr`."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

_LINE = re.compile(rb"^.*\w\.cc:\d+\] .*\n?", re.MULTILINE)


@contextlib.contextmanager
def kernel_logs_held_back() -> Iterator[None]:
    """Drop what kernels log inside the block; pass on anything else that is written to stderr.

    A kernel that rejects its input logs INVALID_ARGUMENT besides raising it. For trial inputs, that is an answer and no
    failure.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            os.write(2, _LINE.sub(b"", log.read()))
