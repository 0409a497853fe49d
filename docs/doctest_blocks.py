"""A hook of MkDocs: examples in docstrings, lines that begin with `>>>`, become blocks of code and not quotations."""

from __future__ import annotations

from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor


def on_config(config: Any) -> Any:
    """Adds the extension for pages and docstrings alike."""
    config["markdown_extensions"].append(DoctestBlocks())
    return config


class DoctestBlocks(Extension):
    """Fences each example, before anything else reads it."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_Fence(md), "doctest_blocks", 100)


class _Fence(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        fenced: list[str] = []
        example = code = False
        for line in lines:
            code ^= line.lstrip().startswith("```")
            if not code and not example and line.startswith(">>>"):
                fenced.append("```pycon")
                example = True
            elif example and not line.strip():
                fenced.append("```")
                example = False
            fenced.append(line)
        return [*fenced, "```"] if example else fenced
