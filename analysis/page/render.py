"""The page as one HTML text that loads nothing from anywhere."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ridgeline.analysis.page.cautions import cautions
from ridgeline.analysis.page.cells import Cell
from ridgeline.analysis.page.layout import blocks, command, digest, soft
from ridgeline.analysis.page.methods import citations, methods
from ridgeline.analysis.page.pictures import pictures
from ridgeline.analysis.page.plots import plots
from ridgeline.analysis.page.questions import QUESTIONS
from ridgeline.analysis.page.sources import Source, Subject
from ridgeline.analysis.page.traces import Plot
from ridgeline.analysis.page.verdict import COLUMNS, verdict
from ridgeline.analysis.reports import REPORTS, report
from ridgeline.analysis.tables import tables
from ridgeline.models.errors import InputError, unknown

#: rows of a table above which its data link is left out: `ridgeline export` writes it
MOST_ROWS = 20_000
_SURROUNDINGS = ("time", "commit", "machine", "python", "threads", "torch", "numpy", "ridgeline")


def check_kinds(sources: Sequence[Source]) -> None:
    """Raise InputError for a result of a kind that has no section."""
    for source in sources:
        if source.kind not in QUESTIONS:
            raise unknown(f"kind of result in {source.path}:", source.kind, QUESTIONS)


def page(title: str, subjects: Sequence[Subject], sources: Sequence[Source]) -> str:
    """One page of checkpoints and results.

    It computes nothing: every number stands in the results, the rest in the recipes. Raises
    InputError without plotly, and for a kind of result that has no section.
    """
    check_kinds(sources)
    script = _plotly_script()
    table, drawn = verdict(subjects, sources), []
    sections = [_section(kind, [s for s in sources if s.kind == kind], drawn) for kind in QUESTIONS
                if any(s.kind == kind for s in sources)]  # fmt: skip
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"soft": soft, "digest": digest, "command": command}
    return environment.from_string(_text("template.html")).render(
        title=title, subjects=subjects, sources=sources, columns=COLUMNS,
        css=Markup(_text("page.css")), verdict=table, missing=_missing(subjects, table),
        cautions=cautions(subjects, sources, table), sections=sections,
        methods=methods(subjects, sources), citations=citations(subjects, sources),
        surroundings=_SURROUNDINGS, plotly=Markup(script.replace("</script", "<\\/script")),
        script=Markup(_text("page.js")),
        plots=Markup(_json([{"data": p.data, "layout": p.layout} for p in drawn])),
    )  # fmt: skip


def _text(name: str) -> str:
    return resources.files("ridgeline.analysis.page").joinpath(name).read_text("utf-8")


def _missing(
    subjects: Sequence[Subject], table: Sequence[Sequence[tuple[Cell | None, str]]]
) -> list[dict[str, Any]]:
    """The commands that fill the dashes of the verdict, each once, with what they fill.

    `ids` are the names that links of the dashes have for them.
    """
    fills: dict[str, list[tuple[int, int]]] = {}
    for row, cells in enumerate(table):
        for column, (cell, fill) in enumerate(cells):
            if cell is None and fill:
                fills.setdefault(fill, []).append((row, column))
    return [
        {"fill": fill, "ids": [f"fill-{row}-{column}" for row, column in places],
         "columns": ", ".join(dict.fromkeys(COLUMNS[column].title for _, column in places)),
         "names": ", ".join(dict.fromkeys(subjects[row].name for row, _ in places))}
        for fill, places in fills.items()
    ]  # fmt: skip


def _section(kind: str, sources: Sequence[Source], drawn: list[Plot]) -> dict[str, Any]:
    """What the template shows of one question; its plots are appended to `drawn`."""
    figures = [*plots(kind, sources), *pictures(kind, sources)]
    results = [{"source": s, "words": report(s.result) if kind in REPORTS else "",
                "data": list(_data(s))} for s in sources]  # fmt: skip
    shown = []
    for block in blocks(figures, results):
        held = []
        for figure in block["figures"]:
            if isinstance(figure, Plot):
                held.append({"number": len(drawn), "plot": figure})
                drawn.append(figure)
            else:
                held.append({"plot": None, "picture": figure})
        shown.append(block | {"figures": held})
    return {"kind": kind, "question": QUESTIONS[kind], "blocks": shown}


def _data(source: Source) -> Iterator[dict[str, str]]:
    """Data links to the tables of a result as CSV; for long ones the command that writes them."""
    if source.lines:
        names = list(dict.fromkeys(k for line in source.lines for k in line))
        rows = [",".join(names), *(",".join(_cell(line.get(n)) for n in names)
                                   for line in source.lines)]  # fmt: skip
        link = _csv("\n".join([*rows, ""]))
        yield {"dims": "epoch", "rows": str(len(source.lines)), "link": link,
               "file": f"{source.path.stem}.csv"}  # fmt: skip
        return
    sizes = source.result.sizes
    small = [n for n, v in source.result.data_vars.items() if v.size <= MOST_ROWS]
    for dims, frame in tables(source.result[small]).items():
        file = f"{source.path.stem}_{dims.replace(',', '_') or 'numbers'}.csv"
        yield {"dims": dims or "single numbers", "rows": str(len(frame)), "file": file,
               "link": _csv(frame.to_csv(index=False, lineterminator="\n"))}  # fmt: skip
    for dims in dict.fromkeys(v.dims for n, v in source.result.data_vars.items() if n not in small):
        count = 1
        for dim in dims:
            count *= sizes[dim]
        export = ["ridgeline", "export", "--result", str(source.path), "--out_file",
                  f"{source.path.stem}.csv"]  # fmt: skip
        yield {"dims": ",".join(map(str, dims)), "rows": str(count), "link": "", "file": "",
               "export": shlex.join(export)}  # fmt: skip


def _cell(value: object) -> str:
    """A value of metrics in a CSV file; nested ones as JSON in quotes."""
    if value is None:
        return ""
    if isinstance(value, (dict, list, str)):
        return '"' + json.dumps(value).replace('"', '""') + '"'
    return str(value)


def _csv(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _json(value: object) -> str:
    """JSON that can stand inside a script element, whatever names it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plotly_script() -> str:
    """The text of plotly.js; InputError without plotly."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise InputError("a report needs plotly: pip install 'ridgeline[interactive]'") from None
    return get_plotlyjs()
