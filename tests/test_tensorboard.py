"""Scalars for TensorBoard: each epoch once, whatever happened, and nothing else changes."""

from __future__ import annotations

import json
import resource

import pytest

from ridgeline.run.shared.training import RunFiles
from ridgeline.train.files import tensorboard
from tests.commands import call, tiny_set
from tests.conftest import Killed

pytestmark = pytest.mark.usefixtures("free_locks")
LINE = (
    "train_normal --out_folder runs --model_name a --dataset tiny.npz --epoch_num 3 --width 1 "
    "--subset_size 12 --batch_size 6 --eval_size 4 --optim name=adam,lr=1e-3"
)


@pytest.fixture
def folder(tmp_path):
    tiny_set(tmp_path)
    return tmp_path


def told(folder) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar in the order in which the files tell them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found = {}
    for path in sorted((folder / "runs/a.tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = float(make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs/a.jsonl").read_text().splitlines()]


def check(folder):
    """Every number of every line is told once, at its epoch, in float32."""
    pytest.importorskip("tensorboard")
    metrics, found = lines(folder), told(folder)
    assert len(metrics) == 3
    assert {"lr", "train_loss", "test_clean_accuracy"} <= found.keys()
    for name, values in found.items():
        assert [step for step, _ in values] == [1, 2, 3], name
        wanted = [float(line[name]) for line in metrics]
        assert [v for _, v in values] == pytest.approx(wanted, rel=1e-6)
    numbers = {k for k, v in metrics[0].items() if isinstance(v, int | float) and k != "epoch"}
    assert numbers == found.keys()


def untimed(folder) -> list[dict]:
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines(folder)]


@pytest.mark.parametrize("fatal", range(1, 9))
def test_a_killed_run_tells_every_epoch_once(folder, monkeypatch, fatal):
    """Killed after any write, before or after TensorBoard was told, and resumed."""
    pytest.importorskip("tensorboard")
    writes = 0
    with monkeypatch.context() as patch:
        for owner, name in ((RunFiles, "save_state"), (RunFiles, "write_metrics"),
                            (tensorboard.Board, "update")):  # fmt: skip
            inner = getattr(owner, name)

            def mortal(*given, inner=inner):
                nonlocal writes
                inner(*given)
                writes += 1
                if writes == fatal:
                    raise Killed

            patch.setattr(owner, name, mortal)
        with pytest.raises(Killed):
            call(f"{LINE} --tensorboard True", folder)
    assert call(f"{LINE} --tensorboard True", folder).returncode == 0
    check(folder)


def test_the_json_lines_are_the_same_and_a_complete_run_is_told_afterwards(folder):
    pytest.importorskip("tensorboard")
    assert call(LINE, folder).returncode == 0
    plain = untimed(folder)
    assert not (folder / "runs/a.tensorboard").exists()
    done = call(f"{LINE} --tensorboard True", folder)
    assert "already trained" in done.stdout
    check(folder)
    assert call(f"{LINE} --tensorboard True --overwrite", folder).returncode == 0
    check(folder)
    assert untimed(folder) == plain


def test_without_tensorboard_one_line_says_how_to_install_it(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    done = call(f"{LINE} --tensorboard True", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'ridgeline[tensorboard]'" in done.stderr
    assert sorted(folder.rglob("*")) == before
    assert call(LINE, folder).returncode == 0


def test_a_file_in_its_place_is_refused_before_training(folder):
    pytest.importorskip("tensorboard")
    (folder / "runs").mkdir()
    (folder / "runs/a.tensorboard").write_text("mine")
    done = call(f"{LINE} --tensorboard True", folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is not a folder" in done.stderr
    assert (folder / "runs/a.tensorboard").read_text() == "mine"
    assert not (folder / "runs/a.ckpt").exists()


def test_a_full_disk_is_one_line(folder):
    """Sees the traceback of a writing thread beside the line, or none that says what is wrong."""
    pytest.importorskip("tensorboard")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    board = tensorboard.Board(folder / "b")
    told = [{"epoch": 1, "loss": 0.5}]
    board.update(told)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
        with pytest.raises(OSError, match=r"b cannot be written \(\[Errno 27\] File too large"):
            board.update([*told, {"epoch": 2, "loss": 0.25}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    board.update([*told, {"epoch": 2, "loss": 0.25}])
    board.close()
