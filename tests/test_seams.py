"""Where two parts meet: resumed work, code and files that changed between two commands."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re

import numpy as np
import pytest
import torch
from torch import nn

from ridgeline.analysis.page.questions import QUESTIONS
from ridgeline.landscape.curvature.operators import Matrix
from ridgeline.landscape.curvature.product_log import ProductLog
from ridgeline.landscape.result import header
from ridgeline.models import build_model, code_of
from ridgeline.models.errors import InputError
from ridgeline.train.data.network_check import check_network
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import file_digest
from ridgeline.train.files.run_files import DONE, RunFiles
from ridgeline.train.loop import fit
from ridgeline.train.methods import Standard
from ridgeline.train.optimizers import parse_optimizer
from tests.commands import ROOT, call
from tests.conftest import make_images

TRAIN = ("train_normal --model_name r --out_folder o --width 1 --subset_size 20 --batch_size 10 "
         "--eval_size 5 --optim name=adam,lr=1e-3")  # fmt: skip


def test_every_flipped_bit_of_a_logged_product_is_noticed(tmp_path):
    """Sees a damaged product replayed: eigenvalues of 1e32 marked as converged."""
    matrix = Matrix(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    path, vectors = tmp_path / "p.products", torch.eye(5, dtype=torch.float64)
    expected = ProductLog(matrix, path, {"a": 1}).matmat(vectors)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(bytes(damaged))
        again = ProductLog(matrix, path, {"a": 1})
        assert torch.equal(again.matmat(vectors), expected), place


@pytest.mark.parametrize("calls", [(1, 1, 1, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_a_log_of_products_ends_at_its_limit_and_the_rest_is_computed_again(calls, tmp_path):
    """Sees 92 GB of products on disk, or records after a gap taken for those in it."""
    matrix = Matrix(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    path, vectors = tmp_path / "p.products", torch.eye(5, dtype=torch.float64)
    record, header = 8 + 5 * 8, 32
    for again in (0, 1, 2):
        log = ProductLog(matrix, path, {"a": 1}, limit=header + 3 * record + record // 2)
        at = 0
        for count in calls:
            columns = vectors[:, at : at + count]
            assert torch.equal(log.matmat(columns), matrix.matmat(columns))
            at += count
        held = (path.stat().st_size - header) / record
        assert held == (2 if calls == (2, 2, 1) else 3)
        assert log.replayed == (held if again else 0)
        assert log.products == 5


def test_the_log_of_a_single_process_takes_those_of_more_along(tmp_path):
    """Sees the logs of processes that are no longer there stay for good."""
    matrix = Matrix(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    log = ProductLog(matrix, tmp_path / "p.products", {"a": 1})
    log.matvec(torch.ones(5, dtype=torch.float64))
    for name in ("p.products.1", "p.products.12", "p.products.old", "pp.products.1"):
        (tmp_path / name).touch()
    log.remove()
    assert {p.name for p in tmp_path.iterdir()} == {"p.products.old", "pp.products.1"}


def test_a_full_disk_ends_the_log_and_not_the_work(tmp_path, monkeypatch):
    """Sees a result lost for want of room for the log that was to save it."""
    matrix = Matrix(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    path, vectors = tmp_path / "p.products", torch.eye(5, dtype=torch.float64)
    log = ProductLog(matrix, path, {"a": 1})
    log.matvec(vectors[0])
    with monkeypatch.context() as patch:

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        plain = type(path).open
        patch.setattr(
            type(path), "open", lambda self, mode: full() if mode == "ab" else plain(self, mode)
        )
        assert torch.equal(log.matvec(vectors[1]), matrix.matvec(vectors[1]))
    assert torch.equal(log.matvec(vectors[2]), matrix.matvec(vectors[2]))
    again = ProductLog(matrix, path, {"a": 1})
    for vector in vectors:
        assert torch.equal(again.matvec(vector), matrix.matvec(vector))
    assert again.replayed == 1


class Masked(nn.Module):
    """A classifier with an infinite buffer, as an attention mask is."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(36, 4)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        return self.f(x.flatten(1)) + self.mask.softmax(0)[1]


def test_a_network_with_an_infinite_buffer_can_be_trained(tmp_path):
    """Sees a mask taken for weights that diverged."""
    files = RunFiles(tmp_path, "m", {})
    images = make_images(12)
    method = Standard(Masked())
    optimizer = parse_optimizer("name=sgd,lr=0.1")
    resume = files.holding(method).prepare(False)
    fit(method, images, images, epochs=1, batch_size=6, optimizer=optimizer, files=files,
        resume=resume)  # fmt: skip
    kept = load_checkpoint(tmp_path / "m.ckpt").tensors["mask"]
    assert kept.tolist() == [0.0, -float("inf")]


def test_a_network_without_parameters_is_refused():
    """Sees an optimiser's traceback over an empty list."""
    with pytest.raises(InputError, match="no parameters"):
        check_network(nn.Sequential(nn.Flatten()), make_images(3))


def test_a_damaged_network_is_no_trained_one(tmp_path):
    """Sees a checkpoint with a flipped bit called trained."""
    files = RunFiles(tmp_path, "m", {})
    files.save("", {"w": torch.arange(64.0)})
    assert files.prepare(False) == DONE
    content = bytearray((tmp_path / "m.ckpt").read_bytes())
    content[-3] ^= 1
    (tmp_path / "m.ckpt").write_bytes(bytes(content))
    with pytest.raises(InputError, match="damaged"):
        files.prepare(False)


def test_the_code_of_a_network_is_part_of_what_it_is(tmp_path, caplog):
    """Sees old results served, and runs mixed, for a network whose file was edited."""
    source = (
        "from torch import nn\ndef net(num_classes=10):\n    return nn.Sequential(nn.Flatten(),"
    )
    source += " nn.Linear(784, 4), nn.{act}(), nn.Linear(4, num_classes))\n"
    with contextlib.chdir(tmp_path):
        (tmp_path / "a.py").write_text(source.format(act="ReLU"))
        (tmp_path / "b.py").write_text(source.format(act="Tanh"))
        train = f"{TRAIN.replace(' --width 1', '')} --model_type a.py:net --epoch_num 1"
        assert call(train)[0] == 0
        look = "test_ensemble --model2load o/r.ckpt --subset_size 10 --out_file o/t"
        assert call(f"{look} --model_type a.py:net")[0] == 0
        status, _, error = call(f"{look} --model_type b.py:net")
        assert status == 2
        assert "another recipe" in error
        with caplog.at_level(logging.WARNING):
            assert call(f"{look}2 --model_type b.py:net")[0] == 0
        assert "has changed since" in caplog.text
    relu, tanh = (nn.Sequential(nn.Linear(2, 2), a) for a in (nn.ReLU(), nn.Tanh()))
    assert code_of(relu) != code_of(tanh)
    assert code_of(relu) == code_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_a_replaced_run_leaves_no_networks_behind(tmp_path):
    """Sees epochs of the old recipe beside those of the new one, read as one run."""
    with contextlib.chdir(tmp_path):
        assert call(f"{TRAIN} --epoch_num 3 --epoch_ckpts 1,2,3")[0] == 0
        (tmp_path / "o/r_mine.ckpt").write_bytes((tmp_path / "o/r_3.ckpt").read_bytes())
        assert call(f"{TRAIN} --epoch_num 2 --epoch_ckpts 1,2 --seed 1 --overwrite")[0] == 0
        found = {p.name for p in (tmp_path / "o").glob("*.ckpt")}
        # r_mine was no part of the run under that name: it stays
        assert found == {"r.ckpt", "r_init.ckpt", "r_1.ckpt", "r_2.ckpt", "r_mine.ckpt"}


def test_a_finished_run_without_its_metrics_says_so(tmp_path):
    """Sees a run called trained whose metrics are gone, and an unfinished run analysed."""
    with contextlib.chdir(tmp_path):
        assert call(f"{TRAIN} --epoch_num 1 --attack name=fgsm,threshold=0.1")[0] == 0
        metrics = tmp_path / "o/r.jsonl"
        line = metrics.read_text()
        analyse = "analyze_overfitting --metrics o/r.jsonl --out_file o/x"
        for wrong, said in (
            (line + line, "every epoch from 1 on"),
            (line.replace('"epoch": 1', '"epoch": 2'), "every epoch from 1 on"),
            (json.dumps({**json.loads(line), "test_target_accuracy": 3.5}) + "\n", "3.5"),
        ):
            metrics.write_text(wrong)
            status, _, error = call(analyse)
            assert status == 2
            assert said in error
        metrics.write_text(line)
        (tmp_path / "o/r.state").touch()
        assert "not finished" in call(analyse)[2]
        (tmp_path / "o/r.state").unlink()
        metrics.unlink()
        status, _, error = call(f"{TRAIN} --epoch_num 1 --attack name=fgsm,threshold=0.1")
        assert status == 2
        assert "are gone" in error


def test_between_and_initial_take_networks_under_the_names_of_others(every_result, tmp_path):
    """Sees a wrapped state dict opened as a network and refused as the end of a line."""
    network = build_model("lenet", (3, 32, 32), width=1)
    wrapped = {f"model.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "lit.pt")
    with contextlib.chdir(every_result):
        status, said, error = call(
            f"scan_param --model2load runs/at.ckpt --subset_size 4 --vec1_scan step=1 --out_folder "
            f"{tmp_path} --model_name s --load_vec1 between:{tmp_path / 'lit.pt'}"
        )
    assert status == 0, error
    assert np.isfinite([float(x) for x in said.split("loss ")[1].split(",")[:1]]).all()


def test_the_report_has_every_kind_of_result(every_result):
    """Sees a result that commands write and the page forgets: its section, figure or command."""
    text = (every_result / "runs/report.html").read_text()
    kinds = {header(p).attrs["kind"] for p in every_result.rglob("*.nc")} | {"metrics"}
    assert kinds == set(QUESTIONS)
    sections = dict(re.findall(r'<section class="question"[^>]*data-kind="(\w+)">(.*?)</section>',
                               text, flags=re.S))  # fmt: skip
    assert set(sections) == kinds
    for kind, section in sections.items():
        assert "How to read this" in section
        figures = len(re.findall(r"<figure[ >]", section))
        assert figures >= 1
        pictures = re.findall(r'<img( class="(?:large|narrow)")? src="data:image/', section)
        assert figures == section.count('class="plot"') + pictures.count("") + pictures.count(
            ' class="large"'
        )
        assert pictures.count(' class="large"') == pictures.count(' class="narrow"')
        blocks = section.split('<div class="block">')[1:]
        assert blocks and all("<figure" in block for block in blocks)
        for block in blocks:  # every figure stands with the commands that repeat it
            results = block.count('<div class="repeat">')
            assert results == block.count('<pre class="command"><code><span>ridgeline ') >= 1
        assert 'href="data:text/csv' in section, kind
    plots = json.loads(re.search(r'id="plots">(.*?)</script>', text, flags=re.S)[1])
    assert len(plots) == text.count('class="plot"')
    assert {t["type"] for p in plots for t in p["data"]} == {
        "scatter", "surface", "contour", "bar", "heatmap"
    }  # fmt: skip


def test_every_figure_of_every_command_says_where_it_comes_from(every_result):
    """Sees a command that draws without the call and the digests of its files."""
    drawn = [p for p in every_result.rglob("*") if p.suffix in (".png", ".pdf", ".svg")]
    commands = set()
    for path in drawn:
        data = path.read_bytes().decode("latin-1")
        call, name, digest = re.search(
            r"ridgeline (\w+)[^;]*; commit [^;]*; ([^;]+?) sha256=([0-9a-f]{64})", data
        ).groups()
        commands.add(call)
        assert file_digest(next(every_result.rglob(name))) == digest
    assert commands == {"plot", "figures", "scan_forgetting"}  # `demo`: tests/test_commands.py
    used = [p.stem for p in [*(ROOT / "run").rglob("*.py")] if "save_figure(" in p.read_text()]
    assert sorted(used) == ["demo_report", "drawing", "forgetting"]
