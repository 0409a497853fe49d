"""Keeps a random sample of the mutations in a session of Cosmic Ray, so that a run ends in a known time.

    python tools/sample_mutations.py mutations.sqlite 25

The seed is printed; a second number repeats a sample.
"""

from __future__ import annotations

import random
import sys
from datetime import date

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkerOutcome, WorkResult


def main(session: str, count: int, seed: int) -> None:
    """Marks all pending mutations but `count` of them as skipped."""
    with use_db(session, mode=WorkDB.Mode.open) as database:
        pending = sorted(database.pending_work_items, key=lambda item: repr(item.mutations))
        kept = random.Random(seed).sample(pending, min(count, len(pending)))
        for item in pending:
            if item not in kept:
                database.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED, output="not in the sample"))
    print(f"{len(kept)} of {len(pending)} mutations, seed {seed}")


if __name__ == "__main__":
    session, count, *seed = sys.argv[1:]
    main(session, int(count), int(seed[0]) if seed else date.today().toordinal())
