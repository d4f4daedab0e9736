"""The numbers of a result as tables: one for every set of dimensions of its variables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ridgeline.models.errors import InputError, unknown

#: a table with more rows is too long for a paper
LONGEST = 200
_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
})  # fmt: skip


def tables(result: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Tables by the names of their dimensions, joined by commas; scalars are under "".

    A row has the coordinates first, then every variable over these dimensions.
    """
    found = {}
    for dims in dict.fromkeys(v.dims for v in result.data_vars.values()):
        names = [n for n, v in result.data_vars.items() if v.dims == dims]
        here = result[names]
        here = here.drop_vars([c for c in here.coords if not set(here[c].dims) <= set(dims)])
        if dims:
            frame = here.to_dataframe(dim_order=list(dims)).reset_index()
            frame = frame[[c for c in frame.columns if c not in names] + names]
        else:
            frame = pd.DataFrame([{n: here[n].item() for n in names}])
        found[",".join(map(str, dims))] = frame
    return found


def table_over(result: xr.Dataset, over: Sequence[str]) -> pd.DataFrame:
    """The table over these dimensions, in any order. Raises InputError if there is none."""
    every = tables(result)
    for dims, frame in every.items():
        if set(dims.split(",")) == set(over):
            return frame
    raise unknown("dimensions of a table, --over", ",".join(over), [d for d in every if d])


def to_tex(result: xr.Dataset, over: Sequence[str] = ()) -> str:
    """Tables for LaTeX (package booktabs): all with at most LONGEST rows, or the one in `over`.

    A value and its standard error or interval share a column. Raises InputError if no table is
    short enough.
    """
    every = {",".join(over): table_over(result, over)} if over else tables(result)
    short = {dims: frame for dims, frame in every.items() if len(frame) <= LONGEST}
    if not short:
        raise InputError(f"the result holds no table of at most {LONGEST} rows: write it as .csv")
    return "\n".join(f"% {dims or 'single numbers'}\n{_tex(f)}" for dims, f in short.items())


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells as text; a value and its error or interval share one cell."""
    shown = {}
    for name in frame.columns:
        stem = str(name).removesuffix("_se").removesuffix("_low").removesuffix("_high")
        if stem != str(name) and stem in frame.columns:
            continue
        texts = [_text(v) for v in frame[name]]
        if f"{name}_se" in frame.columns:
            texts = [t + f" ± {e:.2g}" if np.isfinite(e) else t
                     for t, e in zip(texts, frame[f"{name}_se"], strict=True)]  # fmt: skip
        elif {f"{name}_low", f"{name}_high"} <= set(frame.columns):
            ends = zip(texts, frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
            texts = [f"{t} [{_text(low)}, {_text(high)}]" for t, low, high in ends]
        shown[name] = texts
    return pd.DataFrame(shown)


def _text(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return "–" if np.isnan(value) else f"{value:.4g}".replace("inf", "∞")
    return str(value)


def _tex(frame: pd.DataFrame) -> str:
    cells = rounded(frame)
    lines = [" & ".join(_escaped(str(c)) for c in cells.columns)]
    lines += [" & ".join(map(_escaped, row)) for row in cells.itertuples(index=False)]
    head, *body = (line + r" \\" for line in lines)
    return "\n".join(
        [rf"\begin{{tabular}}{{{'l' * cells.shape[1]}}}", r"\toprule", head, r"\midrule",
         *body, r"\bottomrule", r"\end{tabular}", ""]
    )  # fmt: skip


def _escaped(text: str) -> str:
    text = " ".join(text.translate(_ESCAPES).split())
    return text.replace("±", r"$\pm$").replace("–", "--").replace("∞", r"$\infty$")
