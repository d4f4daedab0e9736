"""How figures look: nothing overlaps, nothing is cut, in every width and style."""

from __future__ import annotations

import itertools
import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.text import Text

from ridgeline.analysis.figures import FIGURES, draw, draw_metrics
from ridgeline.analysis.figures.layout import broken
from ridgeline.analysis.figures.overview import overview
from ridgeline.analysis.figures.style import style
from ridgeline.analysis.figures.surfaces import _short, draw_surface
from ridgeline.analysis.look import Look, venues
from ridgeline.landscape.result import stamp
from ridgeline.models.errors import InputError
from tests.test_analysis import results_of_every_kind

#: widths and styles that are looked at
LOOKS = {"plain": {}, "column": {"width": "column"},
         "large": {"style": "neurips2024", "width": 4.5, "font_size": 10}}  # fmt: skip
#: other drawings of a kind
MORE = {
    "hessian": [], "scan": [{"view": "space"}], "spectrum": [{"against": a} for a in (
        "filters", "magnitude", "radius", "kernels", "basis")],
    "fourier": [{"against": "radius"}], "generator": [{"against": "images"}],
    "robustness": [{"against": "clean"}], "pairs": [{"view": "cka"}],
}  # fmt: skip
SINGLE = {"pairs", "ranking"}  # drawn one at a time


@pytest.fixture(scope="module")
def results():
    held = {kind: stamp(ds, kind, {}) for kind, ds in results_of_every_kind().items()}
    assert set(held) == set(FIGURES)
    for axis in held["scan"]["loss"].dims[1:]:  # as long as the command's
        held["scan"][axis].attrs |= {"long_name": f"random direction {axis[-1]}",
                                     "units": "filter norm"}  # fmt: skip
    return held


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def corners(text: Text) -> np.ndarray:
    """The four corners of a text in pixels, turned as it is."""
    turned, angle = text.get_window_extent(), math.radians(text.get_rotation())
    if angle % (math.pi / 2):  # the extent of a turned text is the box around it, with its centre
        text.set_rotation(0)
        straight = text.get_window_extent()
        text.set_rotation(math.degrees(angle))
        size = np.array([straight.width, straight.height]) / 2
    else:
        size, angle = np.array([turned.width, turned.height]) / 2, 0.0
    around = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return around @ turn + [(turned.x0 + turned.x1) / 2, (turned.y0 + turned.y1) / 2]


def apart(a: np.ndarray, b: np.ndarray, slack: float = 1.0) -> bool:
    """Whether a line lies between two convex shapes; they may share `slack` pixels."""
    for shape in (a, b):
        for edge in np.roll(shape, -1, 0) - shape:
            normal = np.array([-edge[1], edge[0]]) / (np.hypot(*edge) or 1)
            x, y = a @ normal, b @ normal
            if x.max() < y.min() + slack or y.max() < x.min() + slack:
                return True
    return False


def texts_of(figure: Figure) -> list[Text]:
    """The texts that are seen; ticks beyond the limits of an axis keep labels that are not."""
    figure.canvas.draw()
    unseen = set()
    for axes in [*figure.axes, *(child for a in figure.axes for child in a.child_axes)]:
        for axis in axes._axis_map.values():
            ticks = set(axis.get_major_ticks()) | set(axis.get_minor_ticks())
            ticks -= set(axis._update_ticks()) if axes.axison else set()
            unseen |= {label for tick in ticks for label in (tick.label1, tick.label2)}
            unseen |= set() if axes.axison else {axis.label, axis.offsetText}
    found = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    return [t for t in found if t not in unseen and t.get_window_extent().width]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    shapes = [(t.get_text(), corners(t)) for t in texts_of(figure)]
    return [(a, b) for (a, x), (b, y) in itertools.combinations(shapes, 2) if not apart(x, y)]


def cut(figure: Figure) -> list[str]:
    """Texts that reach beyond the figure by more than two pixels."""
    width, height = figure.bbox.width + 2, figure.bbox.height + 2
    return [t.get_text() for t in texts_of(figure)
            if corners(t).min() < -2 or (corners(t).max(0) > (width, height)).any()]  # fmt: skip


def hidden(figure: Figure) -> int:
    """Pixels that are not white where legends stand, once they are taken away."""
    figure.canvas.draw()
    figure.set_layout_engine("none")  # nothing may move into the free place
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    boxes = [legend.get_window_extent() for legend in legends]
    for legend in legends:
        legend.set_visible(False)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[::-1]  # the first row is the top
    count = 0
    for box in boxes:
        (x0, y0), (x1, y1) = (np.floor(box.min).astype(int).clip(0), np.ceil(box.max).astype(int))
        count += int((drawn[y0:y1, x0:x1] < 255).any(2).sum())
    return count


def faults(figure: Figure, width: float | None) -> dict[str, object]:
    found = {"overlaps": overlaps(figure)}
    if width is not None:
        found["cut"] = cut(figure)
        if not math.isclose(figure.get_figwidth(), width):
            found["width"] = figure.get_figwidth()
    found["hidden"] = hidden(figure)
    return {k: v for k, v in found.items() if v}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_overlaps_or_is_cut_in_any_figure(kind, look, results):
    keywords = LOOKS[look]
    inches = Look(**keywords).inches
    several = {"a": results[kind]} | ({} if kind in SINGLE else {"second one": results[kind]})
    with style(Look(**keywords)):  # ticks that are made late take the settings of then
        for options in ({}, *MORE.get(kind, ())):
            held = {"a": results[kind]} if options.get("against") == "images" else several
            for drawn in ({"a": results[kind]}, held):
                figure = draw(drawn, **options, **keywords)
                assert faults(figure, inches) == {}, (options, list(drawn))
                plt.close(figure)


def lines_of_runs(count: int = 6) -> list[dict]:
    return [
        {"epoch": e, "train_loss": 2.0 / e, "train_accuracy": 0.4, "classes": 10, "seconds": 2.0,
         "test_clean_accuracy": 0.5 + 0.05 * e, "test_target_accuracy": 0.4 - 0.1 / e,
         "target_eps": 0.1, "constant_classifier": e == 1,
         "gradient_norm_clean": 1.0 / e, "gradient_norm_target": 2.0 / e,
         "gradient_norm_scheduled": 1.5 / e, "gradient_magnitude": {"fc.weight": 0.1 / e},
         "certificate_own_accuracy": 0.5, "certificate_strong_accuracy": 0.4,
         "certificate_gap": 0.1, "certificate_gap_se": 0.01, "generator_step": 0.1 * e,
         "penalty": 0.1 * e, "updated": {"conv1.weight": 0.5, "fc.weight": 0.1}}
        for e in range(1, count + 1)
    ]  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    "against",
    [None, "gradients", "magnitudes", "certificate", "generator", "tradeoff", "final", "cost",
     "penalty", "updated"],
)  # fmt: skip
def test_nothing_overlaps_or_is_cut_in_figures_of_runs(against, look):
    keywords = LOOKS[look]
    with style(Look(**keywords)):
        figure = draw_metrics(
            {"a": lines_of_runs(), "a run with a name": lines_of_runs()}, against, **keywords
        )
        assert faults(figure, Look(**keywords).inches) == {}


def test_the_checks_see_faults(results):
    """A text on another, a text that is cut, a legend on a line: each is seen."""
    figure, axes = plt.subplots(figsize=(3, 2), layout="constrained")
    axes.plot([0, 1], [0, 1], label="a line")
    assert overlaps(figure) == [] and cut(figure) == [] and hidden(figure) == 0
    axes.text(0.5, 0.5, "one two", rotation=30)
    axes.text(0.5, 0.5, "three four")
    assert overlaps(figure) == [("one two", "three four")]
    axes.text(1.0, 0.1, "far to the right").set_in_layout(False)
    assert cut(figure) == ["far to the right"]
    axes.legend(loc="center")
    assert hidden(figure) > 0


def test_a_style_sets_fonts_and_sizes_that_stay_with_the_figure(results):
    sizes = {"icml2024": (3.25, 8), "neurips2024": (5.5, 9)}
    before = dict(mpl.rcParams)
    for venue, (width, size) in sizes.items():
        axes = draw(results["hessian"], style=venue).axes[0]
        assert axes.figure.get_figwidth() == width
        assert axes.xaxis.label.get_size() == size
        families = {t.get_fontname() for t in (axes.xaxis.label, *axes.get_xticklabels())}
        assert len(families) == 1 and families != {"DejaVu Sans"}
    assert draw(results["hessian"], style="icml2024", width="full").get_figwidth() == 6.75
    axes = draw(results["hessian"], width=4, font_size=12).axes[0]
    assert axes.xaxis.label.get_size() == 12 and axes.get_xticklabels()[0].get_size() == 10.5
    assert dict(mpl.rcParams) == before
    assert len(venues()) > 15
    figure = draw_metrics({"a": lines_of_runs()}, style="cvpr2024")
    assert figure.get_figwidth() == 3.25


@pytest.mark.parametrize(
    ("look", "says"),
    [
        ({"style": "neurips"}, "unknown --style 'neurips' .*neurips2024"),
        ({"style": 3}, "--style"), ({"width": "wide"}, "column, full or 1 to 50 inches, got wide"),
        ({"width": 0.5}, "got 0.5"), ({"width": math.nan}, "got nan"),
        ({"width": True}, "got True"),
        ({"font_size": 2}, "4..24"), ({"font_size": "big"}, "must be a number"),
    ],
)  # fmt: skip
def test_a_look_that_means_nothing_is_refused(look, says, results):
    with pytest.raises(InputError, match=says):
        draw(results["hessian"], **look)


def test_results_that_cannot_share_a_panel_get_one_each(results):
    """Sees the second of two results left out, or its numbers above the names of other layers."""
    spectrum, distance = results["spectrum"], results["distance"]
    other = spectrum.assign_coords(layer=["z.weight"])
    figure = draw({"a": spectrum, "b": other, "c": spectrum})
    names = [[t.get_text() for t in axes.get_xticklabels()] for axes in figure.axes]
    assert names == [["c"], ["z"]]
    colors = [[c.lines[0].get_color() for c in axes.containers] for axes in figure.axes]
    assert len({*colors[0], *colors[1]}) == 3
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    moved = distance.assign_coords(parameter=["v"])
    assert len(draw({"a": distance, "b": moved}).axes) == 2
    with pytest.raises(InputError, match="a panel each"):
        draw({"a": distance, "b": moved}, axes=plt.figure().add_subplot())
    for kind, panels in (("similarity", 4), ("budgets", 2)):
        figure = draw({"a": results[kind], "b": results[kind]})
        assert len([axes for axes in figure.axes if axes.get_subplotspec()]) == panels


def test_what_a_closer_look_found_is_drawn():
    """Sees `--also` in a result and not in its figure, and a warning that looks like none."""
    rng = np.random.default_rng(0)
    signs = ["not_monotone", "black_box", "flat", "unbounded", "steps"]
    shape = ("condition", "class")
    ds = xr.Dataset(
        {**{f"accuracy{w}": ("condition", [0.8 + d, 0.3 + d])
            for w, d in (("", 0), ("_low", -0.1), ("_high", 0.1))},
         "masking_value": ("sign", [0.5, 0.001, 0.02, 0.5, 1.0]),
         "masking_warning": ("sign", [False, True, False, True, False]),
         "ladder_accuracy": ("ladder", [0.6, 0.3]),
         **{f"search_accuracy{w}": ("search", [0.3 + d, 0.2 + d])
            for w, d in (("", 0), ("_low", -0.1), ("_high", 0.1))},
         "transfer_accuracy": (("source", "target"), [[0.1, 0.2], [0.3, 0.4]]),
         **{f"class_accuracy{w}": (shape, rng.random((2, 3))) for w in ("", "_low", "_high")}},
        {"condition": ["clean", "adversarial"], "eps": ("condition", [0.0, 0.1]), "sign": signs,
         "ladder": [0.05, 0.1], "search": ["own", "steps_x4"], "source": [1, 2], "target": [1, 2],
         "class": [0, 1, 2]}, {"kind": "robustness"},
    )  # fmt: skip
    plain = ds[["accuracy", "accuracy_low", "accuracy_high"]].assign_attrs(kind="robustness")
    for look in LOOKS.values():
        with style(Look(**look)):
            figure = draw({"plain": plain, "looked at": ds}, **look)
            assert faults(figure, Look(**look).inches) == {}
    first, masks, searches, classes, transfer = figure.axes
    assert [line.get_xdata().tolist() for line in first.lines if line.get_marker() == "^"] == [
        [0.05, 0.1]
    ]
    warned = next(line for line in masks.lines if line.get_marker() == "X")
    names = [t.get_text() for t in masks.get_yticklabels()]
    rows = np.round(warned.get_ydata()).astype(int)
    assert {names[row]: float(x) for row, x in zip(rows, warned.get_xdata(), strict=True)} == {
        "black box (p)": 0.001, "unbounded": 0.5
    }  # fmt: skip
    assert [t.get_text() for t in searches.get_xticklabels()] == ["own", "steps ×4"]
    assert [t.get_text() for t in transfer.texts] == ["0.10", "0.20", "0.30", "0.40"]
    assert len(classes.containers) == 2
    assert len(draw({"plain": plain}).axes) == 1


def test_a_network_has_one_colour_on_the_overview(results):
    """Sees the colours of one panel given to other networks in the next."""
    runs = {n: lines_of_runs() for n in ("PAS", "constant")}
    accuracy = xr.Dataset(
        {f"accuracy{w}": ("condition", [0.5]) for w in ("", "_low", "_high")},
        {"condition": ["clean"]},
    )
    spectra = dict.fromkeys(("initial", "PAS"), results["spectrum"])
    lines = {f"{n}, {b}": results["hessian"] for n in ("plain", "PAS") for b in ("clean", "ε = 1")}
    surface = results["scan"]
    page = overview(
        runs, dict.fromkeys(("plain", "constant", "PAS"), accuracy), lines,
        {"plain": surface, "PAS": surface}, 0.1, results["curve"], results["similarity"], spectra,
    )  # fmt: skip
    assert not page.legends  # one for panels of several questions would mean all of them
    assert all(page.axes[n].get_legend() for n in (0, 1, 2, 3, 6))
    training, _, eigen, spectrum, *_ = page.axes
    drawn = {line.get_label(): line.get_color() for line in training.lines}
    found = {c.get_label(): (c.lines[0].get_color(), c.lines[0].get_linestyle())
             for c in eigen.containers}  # fmt: skip
    assert found["PAS, clean"] == (drawn["PAS"], "-")
    assert found["PAS, ε = 1"] == (drawn["PAS"], "--")
    assert found["plain, clean"][0] not in drawn.values()
    shares = {c.get_label(): c.lines[0].get_color() for c in spectrum.containers}
    assert shares["PAS"] == drawn["PAS"] and len({*drawn.values(), *shares.values()}) >= 3


def square(values: list[list[float]]) -> tuple:
    return ("network_a", "network_b"), np.array(values)


def test_all_matrices_of_pairs_have_the_order_of_one_dendrogram():
    """Sees cells of two matrices that are no pair of the same networks, and a wrong number."""
    far = [[0.0, 9, 1, 8], [9, 0, 7, 2], [1, 7, 0, 6], [8, 2, 6, 0]]  # a and c, b and d
    alike = [[1.0, 0.9, 0.2, 0.3], [0.9, 1, 0.1, 0.4], [0.2, 0.1, 1, 0.8], [0.3, 0.4, 0.8, 1]]
    names = ["a", "b", "c", "d"]
    missing = np.full((4, 4), np.nan)
    ds = xr.Dataset({"distance": square(far), "cka": square(alike), "cosine": square(missing),
                     "barrier": square(missing)}, {"network_a": names, "network_b": names},
                    {"kind": "pairs"})  # fmt: skip
    for view, groups in ((None, ({"a", "c"}, {"b", "d"})), ("cka", ({"a", "b"}, {"c", "d"}))):
        tree, *panels = [p for p in draw(ds, view=view).axes if p.get_subplotspec()]
        order = [t.get_text().split()[0] for t in tree.get_yticklabels()]
        assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset(g) for g in groups}
        for axes, table in zip(panels, (far, alike), strict=True):
            drawn = axes.images[0].get_array()
            assert drawn.mask[np.diag_indices(4)].all() and drawn.mask.sum() == 4
            for i, j in zip(*np.nonzero(~drawn.mask), strict=True):
                assert drawn[i, j] == table[names.index(order[i])][names.index(order[j])]
            text = next(t for t in axes.texts if t.get_position() == (15, 5))
            assert float(text.get_text()) == drawn[0, 1]
    with pytest.raises(InputError, match=r"unknown --view 'cosine'.*cka, distance"):
        draw(ds, view="cosine")


def test_an_infinite_measure_is_seen(results):
    ds = results["sharpness"].copy(deep=True)
    first = dict.fromkeys(ds["value"].dims, 0)
    assert not [line for axes in draw(ds).axes for line in axes.lines if line.get_marker() == ">"]
    ds["value"][first] = np.inf
    figure = draw(ds)
    marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() == ">"]
    assert len(marks) == 1 and round(marks[0].get_ydata()[0]) == 0
    assert "infinite" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_a_network_has_the_colour_that_it_is_given_in_every_figure(results):
    """Sees a drawing that takes its colours by order alone."""
    ours = mpl.colors.to_rgb("#123456")
    for kind in ("hessian", "spectrum", "distance", "robustness", "overfitting", "trajectory",
                 "generator", "sharpness", "curve", "fourier", "scan"):  # fmt: skip
        ds = results[kind]
        if kind in ("curve", "scan"):  # one line for a network
            ds = ds.isel(subset=[0]) if kind == "curve" else ds.isel(x2=0, eps=[-1], drop=True)
        label = "own" if kind != "overfitting" else f"own: {ds['label'].values[0]}"
        figure = draw({"other": ds, "own": ds}, colors={label: "#123456"})
        found = [line.get_color() for axes in figure.axes for line in axes.lines]
        assert ours in [mpl.colors.to_rgb(c) for c in found], kind
    figure = draw_metrics({"a": lines_of_runs(), "own": lines_of_runs()}, colors="own=#123456")
    assert ours in [mpl.colors.to_rgb(line.get_color()) for line in figure.axes[1].lines]
    with pytest.raises(InputError, match=r"label=colour, .* got own=nocolour"):
        draw(results["hessian"], colors={"own": "nocolour"})


def test_learning_curves_show_what_was_judged():
    """Sees robust accuracy called clean, and a run without test images left empty."""
    blind = [{k: v for k, v in line.items() if "test" not in k} for line in lines_of_runs(3)]
    figure = draw_metrics({"judged": lines_of_runs(3), "blind": blind})
    drawn = {line.get_linestyle(): line.get_ydata() for line in figure.axes[1].lines}
    np.testing.assert_allclose(drawn["-"], [0.55, 0.6, 0.65])
    np.testing.assert_allclose(drawn["--"], [0.3, 0.35, 0.4 - 0.1 / 3])
    np.testing.assert_allclose(drawn[":"], [0.4] * 3)
    said = [t.get_text() for t in figure.legends[0].get_texts()]
    assert {"judged", "blind", "clean test accuracy", "training accuracy"} < set(said)


@pytest.mark.parametrize("against", ["tradeoff", "final", "cost"])
def test_robust_accuracies_say_their_budget(against):
    """Sees bars of two budgets beside each other as if they were of one."""
    weak, strong = lines_of_runs(), [line | {"target_eps": 0.3} for line in lines_of_runs()]

    def said(runs):
        figure = draw_metrics(runs, against)
        return " ".join(t.get_text() for t in texts_of(figure))

    one = said({"a": weak, "b": weak})
    assert "at ε = 0.1" in one and "a, ε" not in one
    several = said({"a": weak, "b": strong})
    assert "a, ε = 0.1" in several and "b, ε = 0.3" in several and "at ε" not in several


def test_panels_that_go_on_below_say_what_they_show(results):
    """Sees a panel of the second line without the name of its axis."""
    changes = (("spike", "class", "side"), np.zeros((2, 3, 2)))
    ds = results["sharpness"].assign(spike_change=changes)
    figure = draw(dict.fromkeys("abcd", ds), view="spikes", width="column")
    panels = [p for p in figure.axes if p.get_subplotspec()]
    first = [p for p in panels if p.get_subplotspec().is_first_col()]
    assert len(first) > 1 and all(p.get_ylabel() for p in first)


def test_a_colour_bar_ends_where_the_losses_end(results):
    """Sees arrows that promise losses beyond the bar where there are none."""
    ds = results["scan"].isel(eps=[0])

    def bars(results):
        panels = draw(results).axes
        return {inner._colorbar.extend for a in panels for inner in a.child_axes}

    assert bars(ds) == bars({"a": ds, "b": ds.isel(x1=slice(1, None))}) == {"neither"}
    axes = plt.subplots()[1]
    draw_surface(ds, axes, norm=mpl.colors.LogNorm(float(ds["loss"].min()) * 2, 1e6))
    assert axes.child_axes[0]._colorbar.extend == "min"


def test_a_barrier_has_the_digits_of_its_error(results):
    ds = results["curve"].isel(subset=[0]).copy(deep=True)
    ds["barrier"][:], ds["barrier_se"] = 1.0617, xr.full_like(ds["barrier"], 0.0721)
    labels = [t.get_text() for t in draw(ds).legends[0].get_texts()]
    assert sum("barrier 1.06 ± 0.07" in text for text in labels) == 2


LONG = "PreActResNet18 trained by PGD-10 with weight averaging (seed 0)"


@pytest.mark.parametrize("kind", ["fourier", "cka", "hessian", "sharpness", "curve", "scan"])
@pytest.mark.parametrize(
    "label", [LONG, "a_file_name_of_sixty_letters_that_has_no_space_in_it_at_all_run_2"]
)
def test_long_labels_leave_their_panels_room(kind, label, results):
    """Sees panels shrink to slivers for a legend, and words that are broken in the middle."""
    for keywords in LOOKS.values():
        figure = draw({label: results[kind]}, **keywords)
        figure.canvas.draw()
        panels = [a for a in figure.axes if a.get_subplotspec() and a.axison]
        assert min(a.bbox.width for a in panels) > 0.25 * figure.dpi
        words = {w for t in texts_of(figure) for w in t.get_text().replace("_\n", "_").split()}
        assert "sharpnes" not in words and "udgets]" not in words
        plt.close(figure)


def test_text_is_broken_at_spaces_and_underscores():
    assert broken("sharpness", 4) == "sharpness"
    assert broken("at_all_run_2", 7) == "at_all_\nrun_2"
    assert broken("plain, ε = 0.1", 8) == "plain,\nε = 0.1"


def test_a_single_result_is_drawn_whatever_its_recipe_says(results):
    """Sees a result of several networks, whose recipe has a list of them, fail without labels."""
    for model in ([{"model_type": "lenet"}], {"model_type": "lenet"}, None):
        ds = stamp(results["pairs"].drop_attrs(), "pairs", {"model": model})
        assert draw(ds).axes


def test_a_panel_without_any_number_is_grey(results):
    """Sees a scan that was cut off before its second budget fail."""
    ds = results["scan"].copy(deep=True)
    ds["loss"][{"eps": 0}] = np.nan
    for view in ("contour", "space"):
        assert draw(ds, view=view).axes


def test_panels_of_scans_keep_their_order(results):
    """Sees the third of six networks drawn after the fifth."""
    names = list("abcdef")
    for keywords in LOOKS.values():
        figure = draw({n: results["scan"].isel(eps=[0]) for n in names}, **keywords)
        panels = [a for a in figure.axes if a.get_subplotspec()]
        figure.canvas.draw()
        read = sorted(panels, key=lambda a: (-round(a.get_position().y0, 2), a.get_position().x0))
        assert [a.get_title()[0] for a in read] == names
        plt.close(figure)


def test_no_two_networks_have_one_colour(results):
    """Sees a chosen colour given to a second network by order, and the palette begun again."""
    ds = results["robustness"]

    def colors(figure):
        return {line.get_color() for line in figure.axes[0].lines if line.get_label()[0] != "_"}

    assert len(colors(draw({"plain": ds, "PAS": ds}, colors={"PAS": "C0"}))) == 2
    assert len(colors(draw({f"n{k}": ds for k in range(12)}))) == 12


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        (["a"], {"colors": {"b": "C1"}}, "unknown label in --colors 'b'"),
        (["a"], {"colors": {"a": "none"}}, "label=colour"),
        (["a"], {"colors": 5}, "must be a dict"),
        (["$\\frac$"], {}, "no formula between dollars"),
        ([], {}, "nothing to draw"),
    ],
)
def test_labels_and_colours_that_mean_nothing_are_refused(labels, options, says, results):
    with pytest.raises(InputError, match=says):
        draw(dict.fromkeys(labels, results["hessian"]), **options)


def test_a_label_that_begins_with_an_underscore_is_in_the_legend(results):
    ds = results["robustness"]
    figure = draw({"_x": ds, "y": ds}, colors={"_x": "C3"})
    assert [t.get_text().strip() for t in figure.legends[0].get_texts()] == ["_x", "y"]


def test_eigenvalues_say_of_which_matrix_they_are(results):
    """Sees Fisher's eigenvalues called the Hessian's, and pixels' beside weights'."""
    ds = results["hessian"].drop_attrs()
    fisher, pixels = (stamp(ds.copy(), "hessian", {"operator": o}) for o in ("fisher", "input"))
    assert draw(fisher).axes[0].get_ylabel() == "Fisher eigenvalue"
    both = draw({"a": fisher, "b": stamp(ds, "hessian", {})})
    assert both.axes[0].get_ylabel() == "Fisher or Hessian eigenvalue"
    with pytest.raises(InputError, match="other units"):
        draw({"a": fisher, "b": pixels})


def test_a_run_of_one_epoch_is_seen():
    figure = draw_metrics({"a": lines_of_runs(1)})
    marks = {line.get_marker() for line in figure.axes[0].lines if len(line.get_xdata()) == 1}
    assert marks == {"o", "x"}
    assert [t for t in figure.axes[0].get_xticks() if 0.9 < t < 1.1] == [1.0]


def test_labels_of_losses_have_the_digits_that_their_steps_need():
    """Sees equal steps of a colour bar read as 0.2, 0.2, 0.3, 0.2."""
    assert _short([1.31, 1.53, 1.75, 1.97, 2.19]) == ["1.31", "1.53", "1.75", "1.97", "2.19"]
    assert _short([0.07687, 0.2605, 0.8829, 2.992, 10.14]) == ["0.077", "0.26", "0.88", "3", "10"]
    assert _short([120.4, 250.1, 250.1]) == ["120", "250", "250"] and _short([]) == []
