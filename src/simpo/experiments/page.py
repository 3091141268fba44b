"""A study as one HTML file with everything in it: no scripts, nothing to load."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from simpo.experiments.report import Verdict

__all__ = ["details", "page", "picture", "rows", "verdict_list"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: left; white-space: nowrap; }
th { border-bottom: 1px solid #767676; font-weight: 600; }
td.number { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
img { max-width: 100%; height: auto; }
.word { font-weight: 600; } .holds { color: #00664b; } .fails { color: #a34700; }
.open { color: #595959; } .evidence { color: #595959; margin-left: 1rem; }
"""
CLASSES = {True: "holds", False: "fails", None: "open"}


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body><h1>{escape(title)}</h1>\n{''.join(parts)}</body></html>\n"


def rows(caption: str, header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table under a heading."""
    top = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{escape(x)}</td>' for x in line) + "</tr>"
        for line in lines
    )
    return (
        f'<h2>{escape(caption)}</h2><div class="scroll"><table><thead><tr>{top}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>\n"
    )


def verdict_list(verdicts: Iterable[Verdict]) -> str:
    """Claims, whether they hold, and the evidence."""
    items = "".join(
        f'<li><span class="word {CLASSES[v.holds]}">{v.word}</span>: '
        f'{escape(v.claim)}<div class="evidence">{escape(v.evidence)}</div></li>'
        for v in verdicts
    )
    return f"<h2>Verdicts</h2><ul>{items}</ul>\n"


def picture(path: Path, text: str) -> str:
    """A PNG in the page, with a text for those who cannot see it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{escape(text)}" src="data:image/png;base64,{data}"></p>\n'


def details(summary: str, values: Mapping[str, object] | Sequence[str]) -> str:
    """Something to open: names with values, or lines."""
    lines = (
        [f"{name}: {value}" for name, value in values.items()]
        if isinstance(values, Mapping)
        else values
    )
    body = "\n".join(escape(str(line)) for line in lines)
    return f"<details><summary>{escape(summary)}</summary><pre>{body}</pre></details>\n"
