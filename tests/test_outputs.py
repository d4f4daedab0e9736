"""Result files, their locks, what an interrupted command leaves, figures, and metrics."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from filelock import FileLock
from PIL import Image

from ridgeline.analysis.figures import draw
from ridgeline.analysis.figures.style import figure_files, save_figure
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.analysis.training.trajectory import metrics_along
from ridgeline.landscape.result import (
    claim,
    complete,
    empty_cells,
    load_result,
    recipe_of,
    result_path,
    save_result,
    stamp,
)
from ridgeline.landscape.resume import Parts, resumable
from ridgeline.landscape.surfaces.curve import check_fixed
from ridgeline.models import InputError, build_model
from ridgeline.train.files.checkpoint import save_checkpoint
from ridgeline.train.files.locks import release_all
from ridgeline.train.files.recipe import digest, file_digest, write_atomically
from tests.conftest import ROOT

FGSM = "name=fgsm,threshold=0.1,order=-1"


@pytest.fixture(autouse=True)
def free():
    """Outputs that a test holds are free when it ends."""
    yield
    release_all()


@pytest.fixture
def command(tmp_path, monkeypatch, run_command):
    """`run_command`, and the working folder is its."""
    monkeypatch.chdir(tmp_path)
    return run_command


def small_run(folder: Path, name: str = "a", width: int = 1, data: str = "d.npz") -> None:
    """A checkpoint of an untrained LeNet that records its data set, 30 random images."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(30) % 10
    np.savez(folder / data, **arrays)
    torch.manual_seed(width)
    network = build_model("lenet", (1, 28, 28), width=width, bias=True, num_classes=10)
    model = {"model_type": "lenet", "width": width, "bias": True, "num_classes": 10,
             "image_shape": [1, 28, 28], "normalize": None}  # fmt: skip
    save_checkpoint(folder / f"{name}.ckpt", network.state_dict(),
                    {"model": model, "data": {"dataset": data}, "epoch": width})  # fmt: skip


def grid(recipe: dict, done: bool) -> xr.Dataset:
    """A scan of two cells, the second NaN, and computed or not."""
    cells = empty_cells({"x": ("x", [0.0, 1.0])}, {"loss": {}, "loss_se": {}})
    cells["loss"][:], cells["loss_se"][:] = [1.0, np.nan], [0.1, np.nan]
    cells["done"][:] = [True, done]
    return stamp(cells, "scan", recipe)


def test_every_flipped_byte_of_a_result_is_noticed_or_harmless(tmp_path):
    """Only this sees damage that HDF5 does not: attributes, small variables, its own metadata."""
    file, ds = tmp_path / "r.nc", grid({"seed": 1}, True)
    save_result(ds, file)
    content, noticed = file.read_bytes(), 0
    with file.open("r+b", buffering=0) as raw:
        for place, byte in enumerate(content):
            raw.seek(place)
            raw.write(bytes([byte ^ 1 << place % 8]))
            try:
                xr.testing.assert_identical(load_result(file), ds)
            except InputError as error:
                assert "damaged" in str(error)
                noticed += 1
            raw.seek(place)
            raw.write(bytes([byte]))
    assert noticed > len(content) - 32  # the mark that says "sealed" itself may go
    file.write_bytes(content[:-1])
    xr.testing.assert_identical(load_result(file), ds)  # all of the data is there
    ds.to_netcdf(file, engine="h5netcdf")  # a file without a seal
    xr.testing.assert_identical(load_result(file), ds)
    file.write_bytes(content)
    xr.testing.assert_identical(xr.load_dataset(file, engine="h5netcdf"), ds)


def test_files_have_the_mode_of_the_umask(tmp_path):
    """Only this sees the 0600 that safetensors gives, which locks out a group and a web server."""
    for mask, mode in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            save_checkpoint(tmp_path / "a.ckpt", {"w": torch.zeros(2)}, {})
            save_result(grid({}, True), tmp_path / "a.nc")
            write_atomically(tmp_path / "a.jsonl", lambda p: p.write_text("{}"))
        finally:
            os.umask(before)
        assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {mode}


def test_overwrite_completes_its_own_half_and_replaces_the_rest(tmp_path):
    """Only this sees `--overwrite` delete, at every call, what a kill left of the same command."""
    file, mine = tmp_path / "r.nc", {"seed": 1}
    save_result(grid(mine, False), file)
    assert not complete(claim(file, mine, overwrite=True))
    assert not complete(claim(file, mine, overwrite=False))
    assert claim(file, {"seed": 2}, overwrite=True) is None
    save_result(grid(mine, True), file)
    assert claim(file, mine, overwrite=True) is None  # asked for anew
    assert complete(claim(file, mine, overwrite=False))
    file.write_bytes(b"somebody else's")
    assert claim(file, mine, overwrite=True) is None
    with pytest.raises(InputError, match="--overwrite"):
        claim(file, mine, overwrite=False)


def test_the_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    """Only this sees two processes write one output: the loser's result and vectors are lost."""
    save_result(grid({"seed": 1}, True), tmp_path / "whole.nc")
    for name in ("r.nc", "whole.nc"):
        assert claim(tmp_path / name, {"seed": 1}, overwrite=True) is None  # held from here on
    code = (
        "import sys; from ridgeline.landscape.result import claim, complete\n"
        "assert complete(claim('whole.nc', {'seed': 1}, False))\n"
        "for name, overwrite in (('r.nc', False), ('r.nc', True), ('whole.nc', True)):\n"
        "    try: claim(name, {'seed': 2}, overwrite)\n"
        "    except ValueError as error: print(error)\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    lines = second.stdout.splitlines()
    assert len(lines) == 3 and all("being written by another command" in x for x in lines)
    assert {p.name for p in tmp_path.glob("*.nc")} == {"whole.nc"}


def test_a_full_disk_leaves_the_result_before_and_a_process_that_goes_on(tmp_path):
    """Sees HDF5 end the process with a segmentation fault, lock and half a file left behind."""
    code = """
import resource
from ridgeline.landscape.result import load_result, save_result
ds = load_result("r.nc")
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
try:
    save_result(ds, "r.nc")
except OSError as error:
    print(error)
"""
    save_result(grid({"a": 1}, done=True), tmp_path / "r.nc")
    before = (tmp_path / "r.nc").read_bytes()
    assert len(before) > 4000
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = "r.nc cannot be written ([Errno 27] File too large); what was there is kept\n"
    assert done.stdout == said
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]
    assert (tmp_path / "r.nc").read_bytes() == before


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    """Sees an output that nobody may write again, or its lock file stay for good."""
    code = ("import os, signal; from ridgeline.train.files.locks import lock; "
            "lock('r.nc'); os.kill(os.getpid(), signal.SIGKILL)")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".r.nc.lock"]
    assert claim(tmp_path / "r.nc", {}, overwrite=False) is None
    release_all()
    assert not list(tmp_path.iterdir())


def test_a_whole_result_is_read_where_nothing_can_be_written(tmp_path):
    """Only this sees a finished result of the same recipe refused for its read-only folder."""
    save_result(grid({"seed": 1}, True), tmp_path / "r.nc")
    tmp_path.chmod(0o555)
    try:
        assert complete(claim(tmp_path / "r.nc", {"seed": 1}, overwrite=False))
        assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]
    finally:
        tmp_path.chmod(0o755)


def test_parts_survive_any_cut_of_their_file(tmp_path):
    """Only this sees a record torn by a kill, or one of another course, believed."""
    made: list[str] = []

    def run(names=("a", "outer", "b")) -> list:
        parts, found = Parts(tmp_path / "p"), []

        def make(name: str):
            if name == "outer":  # a part made of parts
                inner = [float(parts(n, lambda n=n: make(n))["v"]) for n in ("c", "d")]
                made.append(name)
                return {"v": sum(inner)}
            made.append(name)
            return {"v": 0.1 * ord(name), "t": torch.full((3,), float(ord(name)))}

        for name in names:
            found.append(
                {
                    k: torch.as_tensor(v).tolist()
                    for k, v in parts(name, lambda name=name: make(name)).items()
                }
            )
        return found

    whole = run()
    assert made == ["a", "c", "d", "outer", "b"]
    content = (tmp_path / "p").read_bytes()
    for cut in range(len(content) + 1):
        (tmp_path / "p").write_bytes(content[:cut])
        made.clear()
        assert run() == whole
        assert (tmp_path / "p").read_bytes() == content
        assert bool(made) == (cut < len(content))
    for place in range(0, len(content), 7):
        (tmp_path / "p").write_bytes(content[:place] + bytes([content[place] ^ 4])
                                     + content[place + 1 :])  # fmt: skip
        assert run() == whole
    made.clear()
    assert run(names=("a", "b"))[0] == whole[0] and made == ["b"]  # another course after a


def test_parts_go_when_the_result_is_safe_and_stay_when_it_is_not(tmp_path):
    """Only this sees parts that pile up beside results, or vanish with an exception."""
    for error in (None, KeyboardInterrupt, OSError):
        try:
            with resumable(tmp_path / "r.nc", {}) as keep:
                keep("a", lambda: {"v": 1})
                if error:
                    raise error
        except (KeyboardInterrupt, OSError):
            (left,) = tmp_path.iterdir()
            assert left.name.startswith(".r.nc.") and left.suffix == ".parts"
            with resumable(tmp_path / "r.nc", {"another": "recipe"}) as keep:
                assert float(keep("a", lambda: {"v": 2})["v"]) == 2
            assert list(tmp_path.iterdir()) == [left]  # not its own: it stays
        else:
            assert not list(tmp_path.iterdir())
    with resumable(None, {}) as keep:
        assert keep("a", lambda: {"v": 1}) == {"v": 1}


def test_what_a_command_killed_in_its_last_moments_left_goes_with_the_next_call(
    command, tmp_path, monkeypatch
):
    """Sees files for resuming, and the lock, stay for good beside a result that is whole."""

    def stopped(cells):
        raise KeyboardInterrupt

    small_run(tmp_path)
    line = ("calc_hessian", "--model2load", "a.ckpt", "--subset_size", 6, "--out_file", "r")
    module = importlib.import_module("ridgeline.run.calc_hessian")
    with monkeypatch.context() as patch:
        patch.setattr(module, "left_of", stopped)  # asked when the result is on disk
        assert command(*line).returncode == 130
    recipe = recipe_of(load_result(tmp_path / "r.nc"))
    (tmp_path / ".r.nc.lock").touch()
    for process in ("", ".1"):
        (tmp_path / f".r.nc.{digest(recipe)[:16]}.parts{process}").touch()
    cell = recipe_of(load_result(tmp_path / ".r_eps0_all.part"))
    (tmp_path / ".r_eps0_all.products.1").write_bytes(digest(cell).encode()[:32] + b"half")
    foreign = tmp_path / ".r_eps0_all.products.2"
    foreign.write_bytes(digest({}).encode()[:32])
    before = (tmp_path / "r.nc").read_bytes()
    with FileLock(tmp_path / ".r.nc.lock"):  # another command holds it: all may be in use
        command(*line, check=True)
        assert len(list(tmp_path.glob(".r*"))) == 6
    command(*line, check=True)
    assert list(tmp_path.glob(".r*")) == [foreign]
    assert (tmp_path / "r.nc").read_bytes() == before


def test_parts_of_processes_go_once_the_scan_is_whole(command, tmp_path, monkeypatch):
    """Sees the cells of torchrun's processes stay when the first was killed before it removed."""
    small_run(tmp_path)
    line = ("scan_param", "--model2load", "a.ckpt", "--subset_size", 4, "--vec1_scan", "-1:1:2")
    command(*line, check=True)
    whole = tmp_path / "a_results.nc"
    stem = f".{whole.name}.{digest(recipe_of(load_result(whole)))[:16]}."
    for name in (f"{stem}1of2.nc", f"{stem}2of2.nc"):
        (tmp_path / name).write_bytes(whole.read_bytes())
    other = tmp_path / f".{whole.name}.{'0' * 16}.1of2.nc"
    other.touch()
    dead, held = (tmp_path / f".a_results_vec{n}.ckpt.lock" for n in (1, 2))
    dead.touch()
    with FileLock(held):  # another command is at work
        command(*line, check=True)
        assert sorted(tmp_path.glob(".a_results*")) == sorted([other, held])
    command(*line, check=True)
    assert list(tmp_path.glob(".a_results*")) == [other]  # of another recipe: it stays


@pytest.mark.parametrize("name", ["test_ensemble", "generate_adversary"])
def test_ctrl_c_says_what_is_true(name, command, tmp_path, monkeypatch):
    """Only this sees a command that promises to continue and begins anew, attack by attack."""
    small_run(tmp_path)
    options = [name, "--model2load", "a.ckpt", "--attack", FGSM, "--batch_size", 10]
    attacks = importlib.import_module("ridgeline.train.attacks").FGSM
    real, calls = attacks.__call__, []

    def attack(self, *args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(attacks, "__call__", attack)
    status, _, said = command(*options, "--out_file", "r")
    assert (status, said.splitlines()[-1]) == (
        130, f"{name}.py: interrupted; run the same command again to continue")  # fmt: skip
    calls[:] = [1] * 10  # 12 and more: never interrupted again
    assert command(*options, "--out_file", "r")[0] == 0
    rest = len(calls) - 10
    assert command(*options, "--out_file", "whole")[0] == 0
    assert len(calls) - 10 - rest == rest + 2  # the two of the first run were kept
    xr.testing.assert_equal(load_result(tmp_path / "r.nc"), load_result(tmp_path / "whole.nc"))
    assert not list(tmp_path.glob(".*"))
    if name == "test_ensemble":
        calls[:] = [1] * 2
        assert command(*options)[2].splitlines()[-1] == f"{name}.py: interrupted"


def test_an_ensemble_may_mix_architectures_but_not_data(command, tmp_path):
    """Only this sees the first member's width or data set imposed on the others."""
    for name, width, data in (("a", 1, "d.npz"), ("b", 2, "d.npz"), ("c", 1, "other.npz")):
        small_run(tmp_path, name, width, data)
    alone = [command("test_ensemble", "--model2load", f"{n}.ckpt", "--out_file", n) for n in "ab"]
    status, _, _ = command("test_ensemble", "--model2load", "a.ckpt,b.ckpt", "--out_file", "ab")
    assert [status, *(s for s, *_ in alone)] == [0, 0, 0]
    probabilities = []
    for name in ("a", "b", "ab"):
        ds = load_result(tmp_path / f"{name}.nc")
        probabilities.append(np.exp(-ds["losses"].values))
    np.testing.assert_allclose(
        probabilities[2], (probabilities[0] + probabilities[1]) / 2, rtol=1e-5)  # fmt: skip
    status, _, said = command("test_ensemble", "--model2load", "a.ckpt,c.ckpt")
    assert status == 2 and said.count("\n") == 1 and "pass --dataset" in said
    both = ("test_ensemble", "--model2load", "a.ckpt,c.ckpt", "--dataset", "d.npz")
    assert command(*both)[0] == 0
    status, _, said = command("test_ensemble", "--model2load", "a.ckpt,b.ckpt", "--width", 2)
    assert status == 2 and "another architecture" in said


def test_a_scan_says_where_it_stands_and_which_cells_are_lost(command, tmp_path):
    """Only this sees a scan that hides NaN cells, or that never shows the checkpoint's own loss."""
    small_run(tmp_path)
    scan = ["scan_param", "--model2load", "a.ckpt", "--vec1_scan", "min=0,max=1e30,step=1e30"]
    status, out, _ = command(*scan)
    assert status == 0 and "at the checkpoint, clean: loss" in out
    assert "1 of 2 cells hold no finite loss" in out
    status, again, _ = command(*scan)
    assert status == 0 and again == "\n".join(out.splitlines()[-2:]) + "\n"


def test_more_examples_than_there_are_are_said(command, tmp_path, caplog):
    """Sees a count of the call that the result never had."""
    small_run(tmp_path)
    for count, says in ((31, "test has 30 examples, fewer than 31: all are taken"), (30, "")):
        caplog.clear()
        assert command("test_ensemble", "--model2load", "a.ckpt", "--subset_size", count,
                       "--out_file", f"{count}.nc")[0] == 0  # fmt: skip
        assert says in caplog.text and ("fewer" in caplog.text) == bool(says)


def test_an_eigenvector_must_be_of_its_result(command, tmp_path):
    """Only this sees vectors of a result before beside the one that replaced it."""
    small_run(tmp_path)
    hessian = ["calc_hessian", "--model2load", "a.ckpt", "--subset_size", 10, "--max_iter", 1,
               "--out_file", "h.nc"]  # fmt: skip
    assert command(*hessian, "--topk", 3, "--seed", 1)[0] == 0
    moved = ["perturb_param", "--model2load", "a.ckpt", "--vec2load", "h.nc", "--eigenvec_idx"]
    assert command(*moved, 2, "--model_name", "m2")[0] == 0
    assert command(*hessian, "--topk", 1, "--overwrite")[0] == 0
    assert command(*moved, 0, "--model_name", "m0")[0] == 0
    status, _, said = command(*moved, 2, "--model_name", "m3")
    assert status == 2 and "holds 1 eigenvectors" in said
    assert [p.name for p in tmp_path.glob("h_vec*")] == ["h_vec0.ckpt"]  # vectors of no result go
    # the file of one vector replaced by that of another computation
    assert command(*hessian[:-1], "i.nc", "--topk", 1, "--seed", 2)[0] == 0
    (tmp_path / "i_vec0.ckpt").rename(tmp_path / "h_vec0.ckpt")
    status, _, said = command(*moved, 0, "--model_name", "m4")
    assert status == 2 and "is not of the computation that made h.nc" in said
    assert command(*hessian, "--topk", 1, "--blocks", "each", "--overwrite")[0] == 0
    status, _, said = command(*moved, 0, "--model_name", "m5")
    assert status == 2 and "spectra: name the file" in said and "e.g. h_eps0_" in said
    assert not list(tmp_path.glob("m[345]*"))


@pytest.mark.parametrize(
    ("named", "files"),
    [
        ("lr0.1", ["lr0.1.png", "lr0.1.pdf"]), ("a.svg", ["a.svg"]), ("a.PNG", ["a.PNG"]),
        ("a.pdf", ["a.pdf"]), ("a", ["a.png", "a.pdf"]), ("run.best", ["run.best.png",
                                                                      "run.best.pdf"]),
    ],
)  # fmt: skip
def test_a_figure_is_written_under_the_name_it_was_given(named, files, command, tmp_path):
    """Only this sees lr0.1 and lr0.2 drawn into one lr0.png, and a .svg that is a .png."""
    assert [p.name for p in figure_files(tmp_path / named)] == files
    save_result(grid({}, True).expand_dims(eps=[0.0]), tmp_path / "r.nc")
    status, out, _ = command("plot", "--result", "r.nc", "--out_file", named)
    assert status == 0 and out == f"wrote {' and '.join(files)}\n"
    assert {p.name for p in tmp_path.iterdir()} == {"r.nc", *files}
    head = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    for name in files:
        assert (tmp_path / name).read_bytes().startswith(head[Path(name).suffix.lower()])


def test_two_results_with_dots_in_their_names_get_two_figures(command, tmp_path):
    """Only this sees the second figure written over the first while its own name is printed."""
    for name in ("lr0.1", "lr0.2"):
        save_result(grid({}, True).expand_dims(eps=[0.0]), result_path(tmp_path / name))
        status, out, _ = command("plot", "--result", f"{name}.nc")
        assert status == 0 and out == f"wrote {name}.png and {name}.pdf\n"
    assert len(list(tmp_path.glob("lr0.?.p??"))) == 4
    assert [result_path(n).name for n in ("lr0.1", "lr0.1.pkl", "lr0.1.nc")] == ["lr0.1.nc"] * 3


def test_a_surface_is_drawn_in_space_where_asked(command, tmp_path):
    """Only this sees the view of a figure that the command cannot reach, or leaves out unsaid."""
    save_result(grid({}, True).expand_dims(eps=[0.0]), tmp_path / "line.nc")
    plane = xr.Dataset({"loss": (("eps", "x1", "x2"), np.ones((1, 3, 3)))},
                       {"eps": [0.0], "x1": [-1.0, 0.0, 1.0], "x2": [-1.0, 0.0, 1.0]})  # fmt: skip
    save_result(stamp(plane, "scan", {}), tmp_path / "plane.nc")
    drawn = {}
    for view in ("contour", "space"):
        plot = ("plot", "--result", "plane.nc", "--view", view, "--out_file", f"{view}.png")
        assert command(*plot)[0] == 0
        drawn[view] = (tmp_path / f"{view}.png").read_bytes()
    assert drawn["contour"] != drawn["space"]
    status, _, said = command("plot", "--result", "plane.nc", "--view", "spice")
    assert status == 2 and "contour" in said and "space" in said
    status, _, said = command("plot", "--result", "line.nc", "--view", "space")
    assert status == 2 and "needs a scan over two axes" in said
    (tmp_path / "m.jsonl").write_text('{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5}\n')
    status, _, said = command("plot", "--result", "m.jsonl", "--view", "space")
    assert status == 2 and "--view" in said
    assert len(list(tmp_path.glob("*.p??"))) == 2


def test_losses_of_a_surface_are_written_without_exponents(tmp_path):
    """Only this sees a colour bar that says 1.4e+02 where the loss of a ResNet is 141."""
    loss = np.geomspace(0.1, 1000, 9).reshape(1, 3, 3)
    axes = [-1.0, 0.0, 1.0]
    ds = xr.Dataset({"loss": (("eps", "x1", "x2"), loss)}, {"eps": [0.0], "x1": axes, "x2": axes})
    for view in ("contour", "space"):
        figure = draw(stamp(ds, "scan", {}), view=view)
        figure.canvas.draw()
        (bar,) = figure.axes[0].child_axes or figure.axes[1:]
        texts = [t.get_text() for t in bar.get_yticklabels()]
        assert texts[0] == "0.1" and texts[-1] == "1000" and not any("e+" in t for t in texts)


def test_nan_cells_are_grey_and_never_a_line(tmp_path):
    """Only this sees a curve drawn through places where no loss is known."""
    x = np.linspace(0, 1, 5)
    loss = np.array([1.0, 2.0, np.nan, np.inf, 1.0])
    ds = xr.Dataset(dict.fromkeys(("loss", "loss_se"), (("eps", "x1"), loss[None])),
                    {"eps": [0.0], "x1": x})  # fmt: skip
    figure = draw({"": stamp(ds, "scan", {})})
    spans = sorted(p.get_x() for p in figure.axes[0].patches)
    np.testing.assert_allclose(spans, [0.375, 0.625])
    save_figure(figure, tmp_path / "line.png")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": "x"}, {"epoch": 1.5}, {"epoch": None}, {"epoch": True}, {"train_loss": "low"},
        {"train_loss": None}, {"train_accuracy": [1]}, {"test_target_accuracy": "high"},
        {"updated": {"conv1": "all"}},
    ],
)  # fmt: skip
def test_metrics_that_are_no_numbers_are_refused(wrong, tmp_path):
    """Only this sees a traceback of numpy or matplotlib for a metrics line with words in it."""
    good = {"epoch": 1, "train_loss": float("nan"), "train_accuracy": 0.5, "phase": "relearn"}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(good) + "\n")
    assert read_metrics(file)
    file.write_text(json.dumps(good) + "\n" + json.dumps(good | wrong) + "\n")
    with pytest.raises(InputError, match=f"line 2 has {next(iter(wrong))}"):
        read_metrics(file)


def test_a_copy_must_be_in_the_metrics():
    """Only this sees a trajectory beside NaN accuracies of a network the run does not carry."""
    lines = [{"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "test_target_accuracy": 0.4,
              "test_stable_target_accuracy": 0.3} for e in (1, 2)]  # fmt: skip
    assert float(metrics_along(lines, "stable")["robust_test"][0]) == 0.3
    with pytest.raises(InputError, match=r"--copy.*'stabel' \(did you mean 'stable'\?\)"):
        metrics_along(lines, "stabel")
    with pytest.raises(InputError, match="fixed"):
        check_fixed((1, 0, 2))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("scan_param --load_vec2 v.ckpt", "name --vec2_scan"),
        ("scan_param --adversary frozen", "needs --attack"),
        ("scan_param --vec_scale 0", "every direction zero"),
        ("train_curve --fix_points 1,0,2", "fixed"),
        ("scan_curve --fix_points 1,0,2", "fixed"),
        ("calc_trajectory --initial a --copy stable", "--metrics"),
        ("plot --result a.nc --out_file a.jpg", "figures are written as"),
        ("plot --result lr0.1.nc --out_file a.eps", "figures are written as"),
        ("plot --result lr0.1.nc --out_file a.nc", "figures are written as"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, says, refuse):
    """Only this sees an option accepted in silence that has no effect, or a wrong one."""
    name, *rest = options.split()
    common = [] if name == "plot" else ["--model2load", "a.ckpt,,b.ckpt"]
    assert says in refuse(name, *rest, *common)


@pytest.mark.parametrize("form", ["png", "pdf", "svg"])
def test_a_figure_says_which_files_and_which_call_it_comes_from(tmp_path, command, form):
    source = tmp_path / "a&b.nc"
    cells = grid({"seed": 1}, True).expand_dims(eps=[0.1]).rename(x="x1")
    cells["loss"][:], cells["loss_se"][:], cells["accuracy"] = 1.0, 0.1, cells["loss"] * 0
    save_result(cells, source)
    command("plot", "--result", source.name, "--out_file", f"f.{form}", check=True)
    expected = (f"ridgeline plot --out_file f.{form} --result 'a&b.nc'; commit ",
                f"; a&b.nc sha256={file_digest(source)}")  # fmt: skip
    data = (tmp_path / f"f.{form}").read_bytes()
    if form == "png":
        text = Image.open(tmp_path / "f.png").text["Description"]
    elif form == "svg":
        text = "".join(ET.fromstring(data).itertext())
    else:
        text = re.search(rb"/Subject \((.*?)\)", data, flags=re.S)[1].decode()
    assert expected[0] in text and expected[1] in text
