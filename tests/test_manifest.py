"""figures.toml: all figures of a paper by one command, those alone whose sources changed."""

from __future__ import annotations

import os

import numpy as np
import pytest
import xarray as xr

from ridgeline.landscape.result import load_result, save_result, stamp
from ridgeline.run.shared.manifest import read_manifest
from tests.commands import call

LISTED = """
style = "icml2024"

[[figure]]
kind = "hessian"
result = ["a.nc", "b.nc"]
label = ["first", "second"]
out_file = "paper/spectra.pdf"

[[figure]]
kind = "metrics"
result = "m.jsonl"
out_file = "paper/training"
width = 4
"""


def spectrum(path, top: float) -> None:
    ds = xr.Dataset(
        {"eigenvalue": ("rank", [top, 1.0]), "residual": ("rank", [0.1, 0.1]),
         "converged": ("rank", [True, True])}, {"rank": [1, 2]},
    )  # fmt: skip
    save_result(stamp(ds, "hessian", {}), path)


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A folder with two results, metrics and a manifest; commands run beside it."""
    folder = tmp_path / "held"
    folder.mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    spectrum(folder / "a.nc", 3.0)
    spectrum(folder / "b.nc", 4.0)
    line = '{"epoch": %d, "train_loss": 1.0, "train_accuracy": 0.5}\n'
    (folder / "m.jsonl").write_text(line % 1 + line % 2)
    (folder / "figures.toml").write_text(LISTED)
    return folder


ONE, TWO = "figure 1 (paper/spectra.pdf): ", "figure 2 (paper/training): "
FIGURES = ("--manifest", "../held/figures.toml")


def written(folder) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "paper").glob("*")}


def told(*options: object) -> list[str]:
    done = call(("figures", *FIGURES, *options))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_figure_is_drawn_again_only_when_what_it_shows_has_changed(paper):
    """Sees a figure that stays although its source, options or look changed, and one that goes."""
    lines = told()
    assert lines == ["wrote ../held/paper/spectra.pdf",
                     "wrote ../held/paper/training.png and ../held/paper/training.pdf"]  # fmt: skip
    first = written(paper)
    assert set(first) == {"spectra.pdf", "training.png", "training.pdf"}
    assert all(line.startswith("up to date: ") for line in told())
    assert written(paper) == first
    os.utime(paper / "a.nc")  # a new time is no change
    assert told()[0].startswith("up to date")
    spectrum(paper / "b.nc", 5.0)
    lines = told()
    assert lines[0].startswith("wrote") and lines[1].startswith("up to date")
    manifest = (paper / "figures.toml").read_text()
    for old, new in (('"first"', '"1st"'), ("width = 4", "width = 5"), ("icml2024", "cvpr2024")):
        manifest = manifest.replace(old, new)
        (paper / "figures.toml").write_text(manifest)
        assert [line.startswith("wrote") for line in told()] == [
            old != "width = 4", old != '"first"'
        ]  # fmt: skip
    (paper / "paper/training.png").unlink()
    assert [line.startswith("wrote") for line in told()] == [False, True]
    assert all(line.startswith("wrote") for line in told("--all", True))
    assert not list((paper.parent / "beside").iterdir())


def test_a_figure_of_a_manifest_is_that_of_plot(paper):
    told()
    done = call(
        "plot --result ../held/a.nc,../held/b.nc --label first,second --style icml2024 "
        "--out_file plot.pdf"
    )
    assert done.returncode == 0, done.stderr
    files = (paper / "paper/spectra.pdf", paper.parent / "beside/plot.pdf")
    parts = [path.read_bytes().split(b"endobj") for path in files]
    apart = [(a, b) for a, b in zip(*parts, strict=True) if a != b]
    assert all(b"/Subject" in a or b"startxref" in a for a, _ in apart)  # call and time


def test_a_label_has_one_colour_in_all_figures_of_a_manifest(paper):
    """Sees the colours of a figure follow the order of its own labels."""
    more = """
[[figure]]
result = ["a.nc", "b.nc"]
label = ["second", "third"]
out_file = "paper/more.png"
"""
    path = paper / "figures.toml"
    path.write_text(LISTED + more)
    looks = [d.look.named_colors for d, _ in read_manifest(path).values()]
    assert looks == [{"first": "C0", "second": "C1"}, {"m": "C2"}, {"second": "C1", "third": "C3"}]
    path.write_text(LISTED + more + 'colors = {third = "red"}\n[colors]\nsecond = "tab:blue"\n')
    looks = [d.look.named_colors for d, _ in read_manifest(path).values()]
    second = {"second": "tab:blue"}
    assert looks == [{"first": "C0"} | second, {"m": "C1"}, second | {"third": "red"}]
    path.write_text("\ufeff" + LISTED + '[colors]\nfirst = "C1"\n')  # as some editors begin a file
    looks = [d.look.named_colors for d, _ in read_manifest(path).values()]
    assert looks == [{"first": "C1", "second": "C0"}, {"m": "C2"}]  # no colour twice


def test_numbers_are_not_computed_again(paper):
    """A look is no part of a result: the files that are drawn stay as they are."""
    before = {p.name: p.read_bytes() for p in paper.glob("*.*")}
    told()
    told("--all", True)
    assert {p.name: p.read_bytes() for p in paper.glob("*.*")} == before
    assert np.isclose(float(load_result(paper / "a.nc")["eigenvalue"][0]), 3.0)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind = ", "kin = ", ONE + "unknown key 'kin' (did you mean 'kind'?)"),
        ('"hessian"', '"scan"', ONE + "first is of kind hessian, not scan"),
        ("width = 4", 'width = "wide"', TWO + "width must be column, full"),
        ("width = 4", "label = 4", TWO + "label must be a text or a list"),
        ("width = 4", "view = 4", TWO + "view must be a text"),
        ("width = 4", 'view = "space"', TWO + "metrics cannot be drawn with view"),
        ("width = 4", 'against = "cots"', TWO),
        ('"m.jsonl"', '"n.jsonl"', TWO + "no such file to draw: ../held/n.jsonl"),
        ('"m.jsonl"', '["m.jsonl", "a.nc"]', TWO + "metrics (.jsonl) and results cannot"),
        ('"paper/training"', '"paper/"', "paper/ is a folder: name a figure in it"),
        ('"m.jsonl"', '"."', TWO + "../held is a folder"),
        ('"paper/training"', '"paper/t.gif"', "written as .png, .pdf, .svg, not as .gif"),
        ('"paper/training"', '"paper/spectra.pdf"', "figure 1 is written to the same file"),
        ('out_file = "paper/training"', "", "figure 2: out_file is missing; the keys are kind"),
        ('"first", ', "", ONE + "result needs at least one file and label one"),
        ("icml2024", "icml", ONE + "unknown style 'icml'"),
        ("width = 4", "colors = 4", TWO + "colors must be a table"),
        ("width = 4", 'colors = {m = "nocolour"}', TWO + "colors takes label=colour"),
        ("style = ", 'colors = {frist = "C1"}\nstyle = ', "unknown label in colors 'frist'"),
        ("style = ", "stile = ", "figures.toml 'stile' (did you mean 'style'?)"),
        ("[[figure]]", "[figure", "figures.toml is not TOML"),
        (LISTED, "style = 'icml2024'", "lists no figures: each begins with [[figure]]"),
        (LISTED, "figure = [3]", "figure 1: a figure is a table"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_named_before_anything_is_written(old, new, says, paper):
    assert old in LISTED
    (paper / "figures.toml").write_text(LISTED.replace(old, new))
    done = call(("figures", *FIGURES))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert says in done.stderr, done.stderr
    assert not (paper / "paper").exists()


def test_what_is_not_ours_is_not_replaced(paper):
    (paper / "paper").mkdir()
    (paper / "paper/training.png").write_text("drawn by hand")
    done = call(("figures", *FIGURES))
    assert (
        done.returncode == 2 and "figure 2" in done.stderr and "training.png exists" in done.stderr
    )
    assert list(written(paper)) == ["training.png"]
    told("--overwrite", True)
    assert set(written(paper)) == {"spectra.pdf", "training.png", "training.pdf"}
    done = call("figures")
    assert done.returncode == 2 and "no such manifest: figures.toml" in done.stderr
