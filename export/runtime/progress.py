"""A progress bar on stderr, where `rich` is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(show: bool, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the number of rows just done. Without `rich`, or unless `show`, it does nothing.

    Args:
        show: whether to draw.
        total: rows in all; None for a stream of unknown length.
    """
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        show = False
    if not show:
        yield lambda rows: None
        return
    columns = (
        progress.TextColumn("embedding"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("rows"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda rows: bar.advance(task, rows)
