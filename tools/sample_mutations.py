"""Keeps a random sample of the mutations in a session of Cosmic Ray, so that a run ends in a known time.

python tools/sample_mutations.py mutations.sqlite 25        another sample each day
python tools/sample_mutations.py mutations.sqlite 25 7      the sample of seed 7
"""

from __future__ import annotations

import random
import sys
from datetime import date

from cosmic_ray.work_db import WorkDB, use_db


def main(session: str, count: int, seed: int) -> None:
    """Removes all mutations but `count` of those that no filter has skipped: a skipped one would count as noticed."""
    with use_db(session, mode=WorkDB.Mode.open) as database:
        pending = sorted(database.pending_work_items, key=lambda item: repr(item.mutations))
        kept = random.Random(seed).sample(pending, min(count, len(pending)))
        database.clear()
        database.add_work_items(kept)
    print(f"{len(kept)} of {len(pending)} mutations, seed {seed}")


if __name__ == "__main__":
    session, count, *seed = sys.argv[1:]
    main(session, int(count), int(seed[0]) if seed else date.today().toordinal())
