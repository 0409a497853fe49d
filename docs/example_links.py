"""A hook of MkDocs: pages link to `../examples/`, or deeper ones to `../../examples/`, which works in the repository.

On the site, where docs/ is the root, the link has one step up less.
"""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with its links to examples and results as they are on the site."""
    return re.sub(r"\]\(\.\./((\.\./)*examples/)", r"](\1", markdown)
