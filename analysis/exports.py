"""Results for other programs: tables (CSV, LaTeX), ParaView (VTK), and interactive pages (HTML)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import xarray as xr

from ridgeline.analysis.names import distinct_numbers
from ridgeline.analysis.tables import table_over, to_tex
from ridgeline.models.errors import InputError, unknown
from ridgeline.train.files.recipe import write_atomically


def export(result: xr.Dataset, path: str | Path, over: Sequence[str] = ()) -> Path:
    """Write a result in another format. Only `save_result` keeps the whole result.

    Args:
        result: The result.
        path: The file; its suffix, one of EXPORTS, is the format.
        over: Dimensions of the table. Empty: the largest table for CSV, all short enough tables
            for LaTeX.

    Returns:
        The path.

    Raises:
        InputError: for another suffix, for dimensions that no variable has or that the format does
            not accept, and for a result that the format cannot hold.

    >>> result = xr.Dataset({"loss": ("x", [0.5, 2.0])}, {"x": [0, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(result, f"{folder}/result.csv").read_text().split()
    ['x,loss', '0,0.5', '1,2.0']
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in EXPORTS:
        raise unknown("format to export", suffix or str(path), EXPORTS)
    if over and suffix not in TABLES:
        raise InputError(f"{path}: only tables ({', '.join(TABLES)}) take --over")
    text = TABLES[suffix](result, over) if over else EXPORTS[suffix](result)
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))
    return path


def to_csv(result: xr.Dataset, over: Sequence[str] = ()) -> str:
    """One row per cell: its coordinates, then every variable over exactly these dimensions.

    The dimensions are `over`, or those of the variable that has the most. Raises InputError if
    there are none.
    """
    if over:
        return table_over(result, over).to_csv(index=False, lineterminator="\n")
    names = [n for n, v in result.data_vars.items() if v.ndim]
    if not names:
        raise InputError("the result holds no array to write as a table")
    dims = max((result[n].dims for n in names), key=len)
    full = [n for n in names if set(result[n].dims) == set(dims)]
    return result[full].to_dataframe(dim_order=list(dims)).to_csv(lineterminator="\n")


def to_vts(result: xr.Dataset) -> str:
    """A structured grid for ParaView: the coordinates, and every variable at its points.

    A 2-D scan becomes a surface whose height is the loss of the last budget. A 3-D scan becomes a
    volume. Each variable has one array per budget, such as `loss_eps0.1`.
    """
    loss = _loss(result)
    axes = [d for d in loss.dims if d != "eps"]
    if len(axes) not in (2, 3):
        raise InputError(f"a VTK grid needs a scan over 2 or 3 axes, this is over {len(axes)}")
    grids = list(np.meshgrid(*(result[a].values.astype(float) for a in axes), indexing="ij"))
    if len(axes) == 2:
        grids.append(loss.isel(eps=-1).transpose(*axes).values)
    shape = (*loss.isel(eps=0).transpose(*axes).shape, 1)[:3]
    points = np.stack([_flat(g.reshape(shape)) for g in grids], axis=1)
    extent = " ".join(f"0 {n - 1}" for n in shape)
    arrays, budgets = [], result["eps"].values
    for name, variable in result.data_vars.items():
        if set(variable.dims) == set(loss.dims) and variable.dtype.kind in "fiub":
            for eps, text in zip(budgets, distinct_numbers(budgets, digits=6), strict=True):
                values = variable.sel(eps=eps).transpose(*axes).values.astype(float)
                arrays.append(_array(f"{name}_eps{text}", _flat(values.reshape(shape))))
    body = "".join(arrays)
    return (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="StructuredGrid" version="1.0" byte_order="LittleEndian">\n'
        f'<StructuredGrid WholeExtent="{extent}"><Piece Extent="{extent}">\n'
        f"<PointData>\n{body}</PointData>\n"
        f"<Points>\n{_array('points', points.ravel(), components=3)}</Points>\n"
        "</Piece></StructuredGrid>\n</VTKFile>\n"
    )


def to_html(result: xr.Dataset) -> str:
    """An interactive page that works offline: a 3-D surface or lines, one view per budget.

    It needs plotly (pip install 'ridgeline[interactive]'). Raises InputError without it.
    """
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise InputError(
            "an interactive page needs plotly: pip install 'ridgeline[interactive]'"
        ) from None
    loss = _loss(result)
    axes = [d for d in loss.dims if d != "eps"]
    if len(axes) not in (1, 2):
        raise InputError(f"a page needs a scan over 1 or 2 axes, this is over {len(axes)}")
    figure = go.Figure()
    budgets = result["eps"].values
    low, high = _range(loss)
    for number, eps in enumerate(budgets):
        here = result.sel(eps=eps)
        if len(axes) == 1:
            figure.add_scatter(
                x=result[axes[0]].values, y=here["loss"].values, name=f"ε = {eps:g}",
                error_y={"array": here["loss_se"].values, "type": "data", "thickness": 1},
            )  # fmt: skip
            continue
        x, y = (result[a].values for a in axes)
        figure.add_surface(
            x=x, y=y, z=here["loss"].transpose(*axes).values.T, name=f"ε = {eps:g}",
            surfacecolor=np.log10(here["loss"].clip(min=low).transpose(*axes).values.T),
            cmin=np.log10(low), cmax=np.log10(high), colorscale="Viridis",
            colorbar={"title": "log10 loss"}, visible=number == len(budgets) - 1,
            customdata=here["accuracy"].transpose(*axes).values.T,
            hovertemplate=("x1 %{x:.4g}<br>x2 %{y:.4g}<br>loss %{z:.5g}<br>"
                           "accuracy %{customdata:.3f}"),
            contours={"z": {"show": True, "project": {"z": True}, "usecolormap": True}},
        )  # fmt: skip
    labels = [str(result[a].attrs.get("long_name", a)) for a in axes]
    units = loss.attrs.get("units", "")
    what = f"loss [{units}]" if units else "loss"
    if len(axes) == 1:
        figure.update_layout(xaxis_title=labels[0], yaxis_title=what, template="simple_white")
    else:
        scene: dict[str, Any] = {"zaxis": {"title": what}}
        scene |= {f"{n}axis": {"title": label} for n, label in zip("xy", labels, strict=True)}
        figure.update_layout(scene=scene, updatemenus=_menus(budgets, what))
    figure.update_layout(margin={"l": 40, "r": 20, "t": 50, "b": 40}, height=640)
    return figure.to_html(include_plotlyjs=True, full_html=True)


def _menus(budgets: np.ndarray, what: str) -> list[dict]:
    """Buttons for the budget, and for the scale of the loss."""
    choose = [
        {"label": f"ε = {eps:g}", "method": "restyle",
         "args": ["visible", [n == k for n in range(len(budgets))]]}
        for k, eps in enumerate(budgets)
    ]  # fmt: skip
    scales = [
        {"label": kind, "method": "relayout",
         "args": [{"scene.zaxis.type": kind, "scene.zaxis.title.text": what}]}
        for kind in ("linear", "log")
    ]  # fmt: skip
    menus = [{"buttons": scales, "type": "buttons", "direction": "right", "x": 0, "y": 1.08,
              "xanchor": "left"}]  # fmt: skip
    if len(budgets) > 1:
        menus.append({"buttons": choose, "active": len(budgets) - 1, "x": 1, "y": 1.08,
                      "xanchor": "right"})  # fmt: skip
    return menus


def _loss(result: xr.Dataset) -> xr.DataArray:
    """The loss of a scan; InputError for another result."""
    if result.attrs.get("kind") != "scan":
        kind = result.attrs.get("kind", "unknown")
        raise InputError(f"only scans have this format, the result is of kind {kind!r}")
    return result["loss"]


def _range(loss: xr.DataArray) -> tuple[float, float]:
    values = loss.values[np.isfinite(loss.values) & (loss.values > 0)]
    if not values.size:
        raise InputError("the result holds no finite positive loss to draw")
    return float(values.min()), float(values.max())


def _flat(values: np.ndarray) -> np.ndarray:
    """Values in VTK's order: the first axis varies fastest."""
    return values.ravel(order="F")


def _array(name: str, values: np.ndarray, components: int = 1) -> str:
    numbers = " ".join("nan" if np.isnan(v) else repr(float(v)) for v in values)
    return (
        f'<DataArray type="Float64" Name={quoteattr(name)} NumberOfComponents="{components}" '
        f'format="ascii">{numbers}</DataArray>\n'
    )


#: suffix -> the text of a file
EXPORTS: dict[str, Callable[[xr.Dataset], str]] = {
    ".csv": to_csv,
    ".tex": to_tex,
    ".vts": to_vts,
    ".html": to_html,
}
#: suffix -> the text of a table over named dimensions
TABLES: dict[str, Callable[[xr.Dataset, Sequence[str]], str]] = {".csv": to_csv, ".tex": to_tex}
