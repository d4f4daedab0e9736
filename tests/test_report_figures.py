"""The report's figures: what stands together, names and ticks that people read, odd numbers."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.analysis.page.cautions import cautions
from ridgeline.analysis.page.layout import blocks, command, digest, soft
from ridgeline.analysis.page.methods import citations, methods
from ridgeline.analysis.page.plots import plots
from ridgeline.analysis.page.references import REFERENCES, USED
from ridgeline.analysis.page.render import page
from ridgeline.analysis.page.runs import metrics
from ridgeline.analysis.page.sources import read_sources
from ridgeline.analysis.page.surfaces import round_losses, scans
from ridgeline.analysis.page.traces import COLOURS
from ridgeline.analysis.page.verdict import verdict
from ridgeline.landscape.result import save_result, stamp
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint
from ridgeline.train.files.recipe import called
from tests.test_report import PGD, accuracy, checkpoint, curvature, read, titled


def plain(markup) -> str:
    """The text of markup."""
    return html.unescape(re.sub("<[^>]+>", "", str(markup)))


def scanned_curve(folder, ends, same=True):
    """A scan along a curve of 5 places at two budgets, beside the checkpoint of the curve."""
    model = {"model_type": "lenet", "width": 1}
    with called("train_curve", {"model2load": [ends[0], "", ends[1]]}, "."):
        save_checkpoint(folder / "curve.ckpt", {"w": torch.ones(6)}, {
            "model": model, "ends": {"0": load_checkpoint(ends[0]).sha256,
                                     "2": load_checkpoint(ends[1]).sha256}})  # fmt: skip
    sha = load_checkpoint(folder / "curve.ckpt").sha256 if same else "00"
    dims = ("eps", "path", "subset", "t")
    ds = xr.Dataset(
        {"loss": (dims, np.ones((2, 2, 1, 5))), "loss_se": (dims, np.zeros((2, 2, 1, 5))),
         "done": (dims, np.ones((2, 2, 1, 5), bool)),
         "barrier": (dims[:3], [[[0.5], [0.75]], [[1.0], [1.5]]]),
         "barrier_se": (dims[:3], np.full((2, 2, 1), 0.0625))},
        {"eps": [0.0, 0.1], "path": ["curve", "line"], "subset": ["test"],
         "t": np.linspace(0, 1, 5)},
    ).assign_attrs(checkpoint="curve.ckpt")  # fmt: skip
    recipe = {"checkpoint": sha, "attack": PGD, "data": {"dataset": "d.npz", "examples": 20},
              "test": {"dataset": "d.npz", "examples": 30}}  # fmt: skip
    save_result(stamp(ds, "curve", recipe), folder / "curve_scan.nc")
    return str(folder / "curve_scan.nc")


def test_a_curve_is_about_the_networks_at_its_ends(tmp_path):
    files = [checkpoint(tmp_path, "a"), checkpoint(tmp_path, "b", seed=1),
             checkpoint(tmp_path, "c", seed=2)]  # fmt: skip
    made = scanned_curve(tmp_path, files[:2])
    subjects, sources = read_sources(files, [made])
    table = verdict(subjects, sources)
    first, second, third = (titled(row)["barrier"][0] for row in table)
    assert first.text == second.text == "1.5 ± 0.062 nat" and third is None
    assert first.note == (
        "straight line to b; robust loss, ε = 0.1, 3 places between the ends, 30 images (test); "
        "on the trained curve 1 ± 0.062"
    )
    assert second.note.startswith("straight line to a;")
    assert cautions(subjects, sources, table) == []
    (drawn,) = plots("curve", sources)
    assert drawn.layout["xaxis"]["title"]["text"] == "place on the path: 0 is a, 1 is b"
    # a checkpoint of that name which is not the one that was scanned says nothing
    _, (stranger,) = read_sources([], [scanned_curve(tmp_path, files[:2], same=False)])
    assert stranger.ends == {}
    (tmp_path / "curve.ckpt").write_bytes(b"damaged")
    assert read_sources([], [made])[1][0].ends == {}
    (said,) = cautions(subjects, [stranger], verdict(subjects, [stranger]))
    assert said == "About other checkpoints than the verdict's: curve_scan."


def test_barriers_of_pairs_and_runs_say_of_which_loss_and_where(tmp_path):
    files = [checkpoint(tmp_path, n, seed=i) for i, n in enumerate("abc")]
    subjects, _ = read_sources(files, [])
    names, dims = list("abc"), ("network_a", "network_b")
    values = np.array([[0, 0.25, 0.5], [0.25, 0, np.nan], [0.5, np.nan, 0]])
    ds = xr.Dataset(dict.fromkeys(("barrier", "distance", "cosine", "cka"), (dims, values)),
                    dict.fromkeys(dims, names))  # fmt: skip
    recipe = {"checkpoint": [s.sha256 for s in subjects], "places": 3, "attack": None,
              "data": {"dataset": "d.npz", "examples": 9}}  # fmt: skip
    save_result(stamp(ds, "pairs", recipe), tmp_path / "p.nc")
    _, sources = read_sources([], [str(tmp_path / "p.nc")])
    cells = [titled(row)["barrier"][0] for row in verdict(subjects, sources)]
    assert [c.value for c in cells] == [0.5, 0.25, 0.5]
    assert cells[0].note == (
        "highest of 2 straight lines, that to c; clean loss, 3 places between the ends, 9 images; "
        "the result has no error of it"
    )


def test_pgd_is_shown_at_the_budget_of_autoattack(tmp_path):
    subjects, _ = read_sources([checkpoint(tmp_path)], [])
    sha, auto = subjects[0].sha256, "AutoAttack(eps=0.1, order=inf)"
    ds = xr.Dataset(
        {"accuracy": ("condition", [0.9, 0.5, 0.25]),
         "accuracy_low": ("condition", [0.8, 0.4, 0.2]),
         "accuracy_high": ("condition", [0.95, 0.6, 0.3])},
        {"condition": ["clean", "eps=0.1", "eps=0.2"], "eps": ("condition", [0.0, 0.1, 0.2])},
    )  # fmt: skip
    recipe = {"checkpoint": [sha], "attack": PGD, "data": {"dataset": "d.npz", "examples": 50}}
    save_result(stamp(ds, "robustness", recipe), tmp_path / "two.nc")
    for budgets, value, warned in (([0.0, 0.1, 0.2], 0.5, False), ([0.0, 0.3, 0.2], 0.5, True)):
        ds = ds.assign_coords(eps=("condition", budgets))
        save_result(stamp(ds, "robustness", recipe), tmp_path / "two.nc")
        files = [str(tmp_path / "two.nc"), accuracy(tmp_path, "aa", sha, 0.4, attack=auto)]
        sources = read_sources([], files)[1]
        table = verdict(subjects, sources)
        assert titled(table[0])["PGD"][0].value == value
        said = cautions(subjects, sources, table)
        assert bool(said) == warned
    assert said == ["PGD (two) and AutoAttack (aa) have different budgets, ε = 0.3 and 0.1: the "
                    "two columns cannot be compared there."]  # fmt: skip


def test_numbers_that_are_none_are_words(tmp_path):
    files = [checkpoint(tmp_path, "a"), checkpoint(tmp_path, "b", seed=1)]
    subjects, _ = read_sources(files, [])
    results = [accuracy(tmp_path, "r", subjects[0].sha256, np.nan),
               curvature(tmp_path, "h", subjects[0].sha256)]  # fmt: skip
    _, sources = read_sources([], results)
    broken = sources[1].result
    broken["eigenvalue"][...] = np.inf
    broken["trace"][...] = np.nan
    table = verdict(subjects, sources)
    first = {k: c.text for k, (c, _) in titled(table[0]).items() if c}
    assert first == {"clean": "90.0 % [80.0, 95.0]", "PGD": "not a number",
                     "λ_max [nat]": "infinite", "trace [nat]": "not a number"}  # fmt: skip
    said = cautions(subjects, sources, table)
    assert [line for line in said if "not finite" in line] == [
        f"Column {name}: 1 of 1 numbers are not finite."
        for name in ("PGD", "λ_max [nat]", "trace [nat]")
    ]
    read(page("t", subjects, sources))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0])
def test_a_surface_with_holes_says_so(tmp_path, bad):
    axes = {"eps": [0.1], "x1": [-1.0, 0.0, 1.0], "x2": [0.0, 1.0]}
    loss = np.geomspace(0.07, 12, 6).reshape(1, 3, 2)
    loss[0, 1, 1] = bad
    ds = xr.Dataset({"loss": (tuple(axes), loss)}, axes)
    save_result(stamp(ds, "scan", {}), tmp_path / "s.nc")
    _, sources = read_sources([], [str(tmp_path / "s.nc")])
    surface, contour = scans(sources)
    assert "Holes: 1 of 6 losses" in surface.caption and "Holes: 1 of 6" in contour.caption
    assert surface.still.startswith("data:image/png")
    bar = contour.data[0]["colorbar"]
    assert bar["title"]["text"] == "loss [nat], log scale"
    assert bar["ticktext"] == ["0.1", "0.3", "1", "3", "10"]
    assert bar["tickvals"] == pytest.approx(np.log10([0.1, 0.3, 1, 3, 10]))
    assert surface.layout["scene"]["zaxis"]["ticktext"] == bar["ticktext"]
    assert surface.data[0]["z"][1][1] is None and surface.data[0]["customdata"][0][0] == 0.07
    json.dumps([surface.data, contour.data], allow_nan=False)


@pytest.mark.parametrize("low", [1e-12, 1e-3, 0.07, 0.9, 2.3])
@pytest.mark.parametrize("ratio", [1.01, 1.3, 2, 7, 40, 1e3, 1e9])
def test_ticks_of_losses_are_round_and_few(low, ratio):
    ticks = round_losses(low, low * ratio)
    assert 2 <= len(ticks) <= 7 and ticks == sorted(set(ticks))
    assert all(low * 0.999 <= t <= low * ratio * 1.001 for t in ticks)
    assert all(float(f"{t:.4g}") == t for t in ticks)


def test_bars_stand_in_one_group_for_clean_and_one_for_each_budget(tmp_path):
    budgets = xr.Dataset(
        {n: ("condition", [0.9, 0.9, 0.5]) for n in ("accuracy", "accuracy_low", "accuracy_high")},
        {"condition": ["clean", "eps=0", "eps=0.1"], "eps": ("condition", [0.0, 0.0, 0.1])},
    )  # fmt: skip
    recipe = {"checkpoint": ["00"], "attack": PGD}
    save_result(stamp(budgets, "robustness", recipe), tmp_path / "swept.nc")
    single = accuracy(tmp_path, "single", "00", 0.25)
    _, sources = read_sources([], [str(tmp_path / "swept.nc"), single])
    (plot,) = plots("robustness", sources)
    groups = ["clean", "PGD-20<br>ε = 0.1"]
    assert [bar["x"] for bar in plot.data] == [groups, groups]
    assert plot.layout["xaxis"]["categoryarray"] == groups
    assert [bar["y"] for bar in plot.data] == [[90, 50], [90, 25]]
    assert plot.layout["yaxis"]["title"]["text"] == "accuracy [%]"


def test_metrics_have_names_and_units(tmp_path):
    line = {"lr": 0.1, "eps": 0.1, "train_loss": 2.0, "train_accuracy": 0.25,
            "test_clean_loss": 1.0, "test_clean_accuracy": 0.5, "test_target_loss": 1.5,
            "test_target_accuracy": 0.375, "test_scheduled_loss": 1.5,
            "test_scheduled_accuracy": 0.375, "test_average_clean_loss": 0.5,
            "test_average_clean_accuracy": 0.75, "gradient_norm_clean": 3.0}  # fmt: skip
    lines = [line | {"epoch": 1}, line | {"epoch": 2, "lr": 0.01}]
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, lines)))
    _, sources = read_sources([], [str(tmp_path / "run.jsonl")])
    found = list(metrics(sources))
    assert [p.caption.partition(" by epoch")[0].partition(":")[0] for p in found] == [
        "Loss on clean images",
        "Accuracy on clean images",
        "Loss on attacked images",
        "Accuracy on attacked images",
        "Norm of the gradient of the loss by the weights",
        "Learning rate.",
    ]  # the budget of the epoch is the attack's own here, and does not change
    assert [p.layout["yaxis"]["title"]["text"] for p in found[:2]] == ["loss [nat]", "accuracy [%]"]
    assert [(t["name"], t["line"]["dash"], t["y"][0]) for t in found[0].data] == [
        ("run", "solid", 1.0), ("run, average", "solid", 0.5)]  # fmt: skip
    assert [(t["line"]["dash"], t["y"][0]) for t in found[3].data] == [("dot", 25), ("solid", 37.5)]
    assert [e.name for e in found[3].legend] == ["run"]  # one button for all that is of a run


def test_more_networks_than_colours_are_told_apart(tmp_path):
    files = []
    for number in range(10):
        files.append(str(tmp_path / f"run_{number}.jsonl"))
        line = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.25}
        (tmp_path / f"run_{number}.jsonl").write_text(json.dumps(line))
    _, sources = read_sources([], files)
    loss, _ = metrics(sources)
    assert len(loss.legend) == 10
    assert len({(t["marker"]["color"], t["marker"]["symbol"]) for t in loss.data}) == 10
    assert len({(e.colour, e.again) for e in loss.legend}) == 10 > len(COLOURS)


def test_a_network_has_one_colour_in_all_plots(tmp_path):
    files = [checkpoint(tmp_path, "a"), checkpoint(tmp_path, "b", seed=1)]
    shas = [load_checkpoint(f).sha256 for f in files]
    line = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.25}
    (tmp_path / "b.jsonl").write_text(json.dumps(line))
    results = [accuracy(tmp_path, "1", shas[1], 0.5), accuracy(tmp_path, "2", shas[0], 0.5),
               accuracy(tmp_path, "3", shas[0], 0.5), curvature(tmp_path, "h", shas[1]),
               str(tmp_path / "b.jsonl")]  # fmt: skip
    _, sources = read_sources(files, results)
    first, second, third = COLOURS[:3]
    (bars,) = plots("robustness", sources[:3])
    assert [t["marker"]["color"] for t in bars.data] == [second, first, third]
    (values,), (loss, _) = plots("hessian", sources[3:4]), metrics(sources[4:])
    assert values.data[0]["marker"]["color"] == loss.data[0]["marker"]["color"] == second


def test_figures_stand_with_what_repeats_them(tmp_path):
    subjects, _ = read_sources([checkpoint(tmp_path)], [])
    made = [accuracy(tmp_path, n, subjects[0].sha256, 0.5) for n in ("r1", "r2")]
    axes = {"eps": [0.1, 0.2], "x1": [-1.0, 1.0], "x2": [0.0, 1.0]}
    ds = xr.Dataset({"loss": (tuple(axes), np.ones((2, 2, 2)))}, axes)
    with called("scan_param", {"model2load": "a.ckpt"}, "."):
        save_result(stamp(ds, "scan", {}), tmp_path / "s.nc")
    _, sources = read_sources([], [*made, str(tmp_path / "s.nc")])
    results = [{"source": s, "words": "w", "data": []} for s in sources]
    (bars,) = blocks(list(plots("robustness", sources[:2])), results[:2])
    assert len(bars["figures"]) == 1 and [r["source"].name for r in bars["results"]] == ["r1", "r2"]
    low, high = blocks(list(plots("scan", sources[2:])), results[2:])
    assert [len(b["figures"]) for b in (low, high)] == [2, 2]  # surface and contours of a budget
    assert [b["results"][0]["again"] for b in (low, high)] == [False, True]
    assert [len(b["words"]) for b in (low, high)] == [1, 0]
    text = page("t", subjects, sources)
    assert text.count("ridgeline scan_param") == 2  # beside every figure


def test_every_reference_is_of_something_and_is_whole(tmp_path):
    assert {key for _, key in USED} == set(REFERENCES)
    for key, entry in REFERENCES.items():
        assert re.match(r"@(inproceedings|article){" + key + r",\n  author = {\S", entry)
        assert entry.count("{") == entry.count("}")
    assert "journal = {TMLR}" in REFERENCES["lukasik2023"]
    ds = xr.Dataset({"value": ("measure", [1.0, 2.0])}, {"measure": ["sam", "trace"]})
    save_result(stamp(ds, "sharpness", {}), tmp_path / "s.nc")
    _, sources = read_sources([], [str(tmp_path / "s.nc")])
    assert list(citations([], sources)) == ["andriushchenko2023", "foret2021"]


def test_results_that_were_measured_alike_are_one_sentence(tmp_path):
    subjects, _ = read_sources([checkpoint(tmp_path)], [])
    made = [accuracy(tmp_path, n, subjects[0].sha256, 0.5) for n in ("r1", "r2")]
    _, sources = read_sources([], made)
    said = [line for line in methods([], sources) if line.startswith("Accuracy")]
    assert len(said) == 1 and said[0].endswith("under PGD-20 (ε = 0.1, l_inf) (r1, r2).")


def test_commands_wrap_between_options_only():
    line = "ridgeline scan --attack name=pgd,eps=0.1 --files 'a b.nc,c.nc' --flag -- --x -1:1:3"
    made = str(command(line))
    assert plain(made) == line  # copied it is the same
    spans = [plain(s) for s in re.findall("<span>(.*?)</span>", made)]
    assert spans[:3] == ["ridgeline scan", "--attack name=pgd,eps=0.1", "--files 'a b.nc,c.nc'"]
    assert made.count("<wbr>") == 2  # after commas
    odd = """ridgeline x --title 'it'"'"'s <b>'"""
    assert plain(command(odd)) == odd and "<b>" not in str(command(odd))


def test_long_names_break_after_punctuation_and_never_in_numbers():
    name = "trades_of_a_long_name_with_beta-0.25.ckpt"
    parts = str(soft(name)).split("<wbr>")
    assert "".join(parts) == name and "beta-0.25.ckpt" in parts
    assert str(soft("accuracy of 0.25, short_name")) == "accuracy of 0.25, short_name"
    assert plain(soft("<b>" * 9)) == "<b>" * 9
    assert plain(digest("ab" * 32)) == "ab" * 32 and str(digest("ab" * 32)).count("<wbr>") == 7
