"""Results that are made again from the call they record."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.__main__ import commands
from ridgeline.landscape.result import load_result, provenance_of, save_result, stamp
from ridgeline.run.shared import redoing
from ridgeline.run.shared.comparing import Compared, apart, compare, rows
from ridgeline.run.shared.launch import options_of
from ridgeline.train.files.checkpoint import load_checkpoint, save_checkpoint, stored_provenance
from ridgeline.train.files.recipe import provenance
from tests.commands import Done, call
from tests.conftest import ROOT


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, with the digest of its bytes."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def redo(tmp_path, monkeypatch):
    """Redo a result from an unrelated folder; the temporary one must be gone afterwards."""

    def run(path: Path, *options: object) -> Done:
        for name in ("temporary", "elsewhere"):
            (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        done = call(("redo", "--result", path, *options), tmp_path / "elsewhere")
        assert not list((tmp_path / "temporary").iterdir())
        assert not list((tmp_path / "elsewhere").iterdir())
        assert done.returncode != 2 or (done.stderr.count("\n") == 1 and not done.stdout)
        return done

    return run


@pytest.fixture
def copy(every_result, tmp_path):
    """A copy of the results of every command, to be spoilt."""
    return Path(shutil.copytree(every_result, tmp_path / "copy"))


def with_call(path: Path, **changes: object) -> None:
    """Change parts of the call that a result records."""
    ds = load_result(path)
    held = provenance_of(ds)
    held["call"] |= changes
    ds.attrs["provenance"] = json.dumps(held)
    save_result(ds, path)


AGAIN = {
    "runs/total.nc": {f"total_{n}.ckpt" for n in ("vec0", "vec1", "diagonal", "diagonal_se")},
    "runs/total_vec1.ckpt": {"total.nc", "total_vec0.ckpt", "total_diagonal.ckpt",
                             "total_diagonal_se.ckpt"},
    "runs/at_results.nc": {"at_vec1.ckpt", "at_vec2.ckpt"},
    "runs/run_results.nc": {"run_vec1.ckpt", "run_vec2.ckpt"},  # whose recipe has parts of digests
    "runs/at.jsonl": {f"at{n}.ckpt" for n in ("", "_1", "_2", "_init", "_best", "_average",
                                              "_average_2", "_average_best")},
    "runs/at_best.ckpt": None,
    "runs/lure_chunk2.ckpt": None,
    "runs/curve.ckpt": None,
    "runs/moved.ckpt": set(),
    "runs/curve_scan.nc": set(),
    "runs/ensemble.nc": set(),
    "runs/at_2_trajectory.nc": set(),
    "runs/parts_results_shard2of2.nc": set(),
    "runs/parts_whole.nc": set(),  # whose cells are computed as if they had not been shared out
    "runs/swa_aligned.ckpt": set(),
    "runs/at_sharpness.nc": set(),
    "runs/ranking.nc": set(),
    "runs/at_pairs.nc": set(),
    "adv/a.nc": set(),
    "adv/similarity.nc": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_every_kind_of_result_is_made_again_to_the_last_bit(name, every_result, redo):
    before = digests(every_result)
    done = redo(every_result / name)
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(every_result) == before
    lines = done.stdout.splitlines()
    assert all(line.endswith("bit for bit") for line in lines)
    assert lines[0].split()[0] == Path(name).name
    if AGAIN[name] is not None:
        others = {line.split()[0] for line in lines[1:]}
        assert {n for n in others if not n.endswith(".jsonl")} == AGAIN[name]


def test_a_result_records_the_call_that_wrote_it(every_result):
    expected = {
        "command": "calc_cka",
        "options": {
            "model2load": "runs/at.ckpt", "subset_size": 6, "second": "runs/swa.ckpt",
            "minibatch": 4, "out_file": "runs/cka2",
        },
        "folder": str(every_result),
    }  # fmt: skip
    assert provenance_of(load_result(every_result / "runs/cka2.nc"))["call"] == expected
    curve = stored_provenance(every_result / "runs/curve.ckpt")["call"]
    assert curve["options"]["fix_points"] == [1, 0, 1]
    assert curve["options"]["model2load"] == ["runs/at.ckpt", "", "runs/swa.ckpt"]
    assert "call" not in provenance()


def test_an_input_that_has_changed_is_named(copy, redo):
    held = load_checkpoint(copy / "runs/swa.ckpt")
    moved = {k: v + 1 for k, v in held.tensors.items()}
    save_checkpoint(copy / "runs/swa.ckpt", moved, held.recipe)
    done = redo(copy / "runs/ensemble.nc", "--folder", copy)
    assert done.returncode == 2
    assert "runs/swa.ckpt (--model2load) has changed since" in done.stderr
    with np.load(copy / "tiny.npz") as held:
        arrays = dict(held)
    arrays["test_images"] = 255 - arrays["test_images"]
    np.savez(copy / "tiny.npz", **arrays)
    done = redo(copy / "runs/at_cka.nc", "--folder", copy)
    assert done.returncode == 1
    assert "  recipe: data was" in done.stdout
    (copy / "runs/at.ckpt").unlink()
    done = redo(copy / "runs/at_cka.nc", "--folder", copy)
    assert done.returncode == 2
    assert "no such checkpoint: runs/at.ckpt" in done.stderr


def test_a_number_that_was_tampered_with_is_found(copy, redo):
    path = copy / "runs/ensemble.nc"
    ds = load_result(path)
    ds["loss"].values[1] *= 1 + 2.0**-10
    save_result(ds, path)
    done = redo(path, "--folder", copy)
    assert done.returncode == 1
    assert [line.split() for line in done.stdout.splitlines()[1:-1]] == [["loss", "9.8e-04"]]
    assert "DIFFERENT" in done.stdout and "around it: the same versions" in done.stdout
    assert redo(path, "--folder", copy, "--tolerance", 1e-3).returncode == 0
    assert redo(path, "--folder", copy, "--tolerance", 9e-4).returncode == 1
    assert "--tolerance" in redo(path, "--tolerance", -1).stderr


def test_an_eigenvector_beside_a_result_is_compared_too(copy, redo):
    path = copy / "runs/total_vec1.ckpt"
    held, recorded = load_checkpoint(path), stored_provenance(path)
    tensors = {k: v.clone() for k, v in held.tensors.items()}
    tensors["fc3.bias"][0] = torch.nextafter(tensors["fc3.bias"][0], torch.tensor(9.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ridgeline.train.files.checkpoint.provenance", lambda: recorded)
        save_checkpoint(path, tensors, held.recipe)
    done = redo(copy / "runs/total.nc", "--folder", copy)
    assert done.returncode == 1
    wrong = [line.split()[0] for line in done.stdout.splitlines() if "DIFFERENT" in line]
    assert wrong == ["total_vec1.ckpt"]
    assert "\n  fc3.bias  " in done.stdout


def test_metrics_are_compared_line_by_line(copy, redo):
    path = copy / "runs/at.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["seconds"] += 1
    lines[1]["train_loss"] = math.nextafter(lines[1]["train_loss"], 9)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = redo(path, "--folder", copy)
    assert done.returncode == 1
    rows = done.stdout.splitlines()
    assert rows[0].startswith("at.jsonl") and rows[1].split()[0] == "train_loss"
    assert sum("DIFFERENT" in row for row in rows) == 1


def test_what_records_no_call_is_refused(tmp_path, redo):
    folder = tmp_path / "given"
    folder.mkdir()
    save_result(stamp(xr.Dataset({"loss": 1.0}), "robustness", {"seed": 0}), folder / "python.nc")
    xr.Dataset({"t": ("x", [1.0])}).to_netcdf(folder / "foreign.nc", engine="h5netcdf")
    torch.save({"w": torch.ones(2)}, folder / "foreign.ckpt")
    save_checkpoint(folder / "python.ckpt", {"w": torch.ones(2)}, {"seed": 0})
    (folder / "alone.jsonl").write_text("{}\n")
    before = digests(folder)
    for name, words in {
        "python.nc": "records no call", "foreign.nc": "not a Ridgeline result",
        "foreign.ckpt": "records no call", "python.ckpt": "records no call",
        "alone.jsonl": "alone.ckpt", "nothing.nc": "no such result file",
        "nothing.jsonl": "no such file of metrics", "x.png": "no such checkpoint",
    }.items():  # fmt: skip
        done = redo(folder / name)
        assert done.returncode == 2 and words in done.stderr, name
    assert digests(folder) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"command": "calc_hesian"},
            "unknown command 'calc_hesian' (did you mean 'calc_hessian'?)",
        ),
        ({"command": "selfcheck", "options": {}}, "writes no results"),
        ({"command": "redo", "options": {"result": "a"}}, "writes no results"),
        ({"options": {"model2load": ["a.ckpt"], "mystery": 1}}, "--mystery, which test_ensemble"),
        ({"options": {"model2load": "a.ckpt"}}, "--model2load 'a.ckpt': it is now str,..."),
        ({"options": {"model2load": ["a.ckpt"], "subset_size": True}}, "--subset_size True"),
        ({"options": {}}, "required: --model2load"),
        ({"folder": "/nowhere"}, "/nowhere, which is not here; pass --folder"),
        ({"folder": 3}, "records no call"),
        ({"more": 3}, "records no call"),
    ],
)
def test_a_call_that_cannot_be_made_again_is_refused(changes, words, copy, redo):
    path = copy / "runs/ensemble.nc"
    with_call(path, **changes)
    before = digests(copy)
    done = redo(path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert digests(copy) == before


def test_code_that_a_file_names_runs_only_if_the_user_names_it_too(copy, redo):
    mark = copy / "ran"
    (copy / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    path = copy / "runs/cka2.nc"
    options = provenance_of(load_result(path))["call"]["options"]
    with_call(path, options={**options, "model_type": "evil.py:factory"})
    done = redo(path, "--folder", copy)
    assert done.returncode == 2 and "pass --model_type evil.py:factory" in done.stderr
    assert not mark.exists()
    assert redo(path, "--folder", copy, "--model_type", "evil.py:factory").returncode == 2
    assert mark.exists()
    done = redo(copy / "runs/ensemble.nc", "--folder", copy, "--model_type", "evil.py:factory")
    assert done.returncode == 2 and "names no such external network" in done.stderr


def test_no_recorded_name_leads_out_of_the_temporary_folder(copy, redo):
    path = copy / "runs/at_results.nc"
    options = provenance_of(load_result(path))["call"]["options"]
    target = {"out_folder": str(copy / "runs"), "model_name": str(copy / "runs" / "swa")}
    with_call(path, options={**options, **target, "overwrite": True})
    before = digests(copy)
    assert redo(path, "--folder", copy).returncode == 0
    assert digests(copy) == before


def test_a_scan_that_is_not_finished_is_refused(copy, redo):
    path = copy / "runs/at_results.nc"
    ds = load_result(path)
    ds["done"].values[(0,) * ds["done"].ndim] = False
    save_result(ds, path)
    assert "is not finished" in redo(path, "--folder", copy).stderr


@pytest.mark.parametrize("command", commands())
def test_every_output_of_a_command_can_be_redirected(command):
    options = options_of(importlib.import_module(f"ridgeline.run.{command}").main)
    outputs = {k for k in options if k.startswith("out_") or k.endswith("_folder")}
    assert outputs <= set(redoing._OUTPUTS)
    assert outputs or command in ("selfcheck", "redo", "figures")


def test_as_many_threads_compute_as_the_first_time():
    before = torch.get_num_threads()
    for recorded, used in ((before + 1, before + 1), (None, before), ("2", before), (0, before)):
        with redoing._as_many_threads({"threads": recorded}):
            assert torch.get_num_threads() == used
        assert torch.get_num_threads() == before
    assert provenance()["threads"] == before


def test_how_far_numbers_are_apart():
    def far(one, two, **how):
        return apart(np.asarray(one), np.asarray(two), **how)

    assert far([1.0, np.nan, np.inf], [1.0, np.nan, np.inf]) == 0
    assert far([4.0, 1.0], [4.0, 0.5]) == 0.5
    assert far([4.0, 1.0], [4.0, 0.5], together=True) == 0.125
    assert far([0.0, 1.0], [1e-30, 1.0]) == 1
    assert far([1.0], [-1.0]) == 2
    assert far([2**60], [2**60 + 1]) > 0  # the same as floats
    assert far([3, 4], [3, 5]) == 0.2
    assert far(["a", "b"], ["a", "b"]) == 0
    for one, two in (
        ([1.0], [np.nan]), ([1.0], [np.inf]), ([np.inf], [-np.inf]), ([1.0], [1.0, 1.0]),
        ([1.0], [1]), (["a"], ["b"]), ([True], [False]), ([1.0], ["a"]),
        (np.float32([1]), np.float64([1])),
    ):  # fmt: skip
        assert far(one, two) == far(two, one) == math.inf
        assert far(one, two, together=True) == math.inf


def test_what_cannot_be_compared_is_not_called_a_distance():
    lines = rows(Compared(Path("a.nc"), "", {"a": 0.0, "b": math.inf, "c": 1e-3}), 0.0)
    assert lines[0].endswith("3 names, apart by at most 1.0e-03, 1 missing, new, or not comparable")
    assert [line.split(maxsplit=1) for line in lines[1:]] == [
        ["b", "missing, new, or not comparable"], ["c", "1.0e-03"]
    ]  # fmt: skip
    assert rows(Compared(Path("a.nc"), "", {"a": 0.0}), 0.0)[0].endswith("1 names, bit for bit")


def test_what_a_file_lacks_is_infinitely_far(tmp_path):
    recipe, one, two = {"seed": 0}, tmp_path / "one.nc", tmp_path / "two.nc"
    ds = xr.Dataset({"a": ("x", [1.0]), "b": 2.0, "seconds": 3.0})
    ds["a"].attrs["norm"] = 2.0
    save_result(stamp(ds.assign_attrs(count=4, name="first"), "x", recipe), one)
    ds = ds.drop_vars("b").assign(seconds=4.0)
    ds["a"].attrs["norm"] = 2.5
    save_result(stamp(ds.assign_attrs(count=5, name="second"), "x", recipe), two)
    assert compare(one, two) == {"a": 0.0, "a.norm": 0.2, "b": math.inf, ".count": 0.2}
    names = {"half": torch.ones(2, dtype=torch.bfloat16), "number": torch.tensor(2**60)}
    save_checkpoint(tmp_path / "one.ckpt", names, recipe)
    save_checkpoint(tmp_path / "two.ckpt", {**names, "half": torch.ones(2)}, recipe)
    found = compare(tmp_path / "one.ckpt", tmp_path / "two.ckpt")
    assert found == {"half": math.inf, "number": 0.0}
    assert not any(compare(tmp_path / "one.ckpt", tmp_path / "one.ckpt").values())


@pytest.mark.parametrize("words", [["-m", "ridgeline"], [str(ROOT / "run/plot.py"), "--help"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_ends_a_program_quietly(words, buffered):
    """As `ridgeline | head -1` does, whose second line finds no reader."""
    read, write = os.pipe()
    os.close(read)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    env |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    with os.fdopen(write) as pipe:
        done = subprocess.run([sys.executable, *words], stdout=pipe, stderr=subprocess.PIPE,
                              env=env, timeout=120)  # fmt: skip
    assert done.returncode == 141 and not done.stderr


def test_a_merged_result_without_the_call_of_its_cells_is_refused(copy, redo):
    """Sees it merged from its parts again, which proves nothing."""
    path = copy / "runs/parts_whole.nc"
    assert provenance_of(load_result(path))["call"]["command"] == "scan_param"
    with_call(path, command="merge", options={"result": ["a.nc"], "out_file": "b.nc"})
    done = redo(path, "--folder", copy)
    assert done.returncode == 2 and "redo its parts" in done.stderr
