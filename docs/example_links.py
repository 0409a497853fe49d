"""A hook of MkDocs: pages link to `../examples/`, which works in the repository; on the site it is `examples/`."""

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with its links to examples and results as they are on the site."""
    return markdown.replace("](../examples/", "](examples/")
