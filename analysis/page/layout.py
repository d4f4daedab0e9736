"""How a page is put together: figures with what repeats them, and text that wraps well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from ridgeline.analysis.page.pictures import Picture
from ridgeline.analysis.page.traces import Plot

_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
_LONG = re.compile(r"\S{17,}")  # a word that may have to be broken
#: where it is broken: not before the ending of a file, and not in a number
_AFTER = re.compile(r"(?<=[_/,=])(?=[^_/,=])|(?<=-)(?=[^\W\d])|(?<=\.)(?=[^\W\d]\w{4})")
_GROUP = 8  # digits of a hash that stay together


def soft(text: object) -> Markup:
    """Text whose long words break after punctuation, not within a part or a number.

    A budget stays on one line with its sign.
    """
    text = str(text).replace("ε = ", "ε\u00a0=\u00a0")
    found, end = Markup(), 0
    for word in _LONG.finditer(text):
        found += escape(text[end : word.start()])
        found += Markup("<wbr>").join(escape(part) for part in _AFTER.split(word[0]))
        end = word.end()
    return found + escape(text[end:])


def digest(text: str) -> Markup:
    """A hash that may be broken between groups of digits."""
    groups = [text[n : n + _GROUP] for n in range(0, len(text), _GROUP)]
    return Markup("<wbr>").join(escape(group) for group in groups)


def command(text: str) -> Markup:
    """A line for a shell that wraps between its options.

    An option that is longer than a line wraps after commas and other punctuation. Without the
    markup it is the same line, so that it can be copied.
    """
    options: list[list[str]] = [[]]
    for word in _WORD.findall(text):
        if word.startswith("--"):
            options.append([])
        options[-1].append(word)
    spans = [Markup("<span>{}</span>").format(Markup(" ").join(map(_value, option)))
             for option in options if option]  # fmt: skip
    return Markup(" ").join(spans)


def _value(word: str) -> Markup:
    """A word of a command that may be broken after its commas; what is long also within."""
    return Markup("<wbr>").join(soft(part) for part in re.split(r"(?<=,)", word) if part)


def blocks(
    figures: Sequence[Plot | Picture], results: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Figures in groups of the same results, each with these results; at the end those without.

    A result that stands in an earlier group is marked as `again`: its command is repeated, its
    data is not.
    """
    groups: dict[tuple, list[Plot | Picture]] = {}
    for figure in figures:
        groups.setdefault((figure.sources, figure.part), []).append(figure)
    seen: set[str] = set()
    by_name = {r["source"].name: r for r in results}
    for (names, _), held in groups.items():
        yield _block(held, [by_name[n] | {"again": n in seen} for n in names])
        seen.update(names)
    rest = [r | {"again": False} for n, r in by_name.items() if n not in seen]
    if rest:
        yield _block([], rest)


def _block(
    figures: list[Plot | Picture], results: list[dict[str, Any]]
) -> dict[str, Any]:  # fmt: skip
    """Figures, their results, and those of them that have words and did not stand before."""
    return {"figures": figures, "results": results,
            "words": [r for r in results if r["words"] and not r["again"]]}  # fmt: skip
