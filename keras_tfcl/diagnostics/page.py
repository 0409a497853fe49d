"""A self-contained HTML page: a verdict, a table and figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Panel(NamedTuple):
    """A figure, and a sentence that says how to read it."""

    title: str
    caption: str
    axes: Axes


class Statistic(NamedTuple):
    """A line of the table: a name, a value, and how to read it."""

    name: str
    value: str
    meaning: str


def page(
    title: str,
    verdict: str,
    colour: str,
    sentences: Sequence[str],
    statistics: Sequence[Statistic],
    panels: Sequence[Panel],
) -> str:
    """The page as HTML. Figures are embedded as PNG, and nothing is loaded from elsewhere."""
    advice = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    table = "\n".join(
        f"<tr><th>{escape(m.name)}</th><td>{escape(m.value)}</td><td>{escape(m.meaning)}</td></tr>" for m in statistics
    )
    return _PAGE.format(
        title=escape(title),
        verdict=escape(verdict),
        colour=colour,
        advice=advice,
        table=table,
        figures="\n".join(_figure(panel) for panel in panels),
    )


def _figure(panel: Panel) -> str:
    data = io.BytesIO()
    cast("Figure", panel.axes.figure).savefig(data, format="png", dpi=110)
    source = base64.b64encode(data.getvalue()).decode()
    title, caption = escape(panel.title), escape(panel.caption)
    return (
        f'<figure><img alt="{title}" src="data:image/png;base64,{source}">'
        f"<figcaption><b>{title}.</b> {caption}</figcaption></figure>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222;
       background: #fff; }}
#verdict {{ background: {colour}; color: #fff; display: inline-block; padding: .2rem .8rem; border-radius: .4rem; }}
table {{ border-collapse: collapse; margin: 1.5rem 0; }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }}
th {{ font-weight: 600; }}
td:nth-child(2) {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.5rem; }}
figure {{ margin: 0; }}
img {{ width: 100%; height: auto; }}
figcaption {{ font-size: .9rem; color: #444; }}
</style>
</head>
<body>
<h1>{title}</h1>
<h2 id="verdict">{verdict}</h2>
<section id="advice">
{advice}
</section>
<table>
{table}
</table>
<main>
{figures}
</main>
</body>
</html>
"""
