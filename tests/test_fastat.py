"""Curves of FastAT Benchmark's file beside a run of one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ridgeline.analysis.training.fastat import read_benchmark
from ridgeline.analysis.training.overfitting import overfitting
from ridgeline.landscape.result import load_result
from ridgeline.models import InputError
from tests.commands import call

PGD = {"0": [0.2, 0.5, 0.3], "1": [0.1, 0.4, 0.4]}


def seed(number: str, average: bool) -> dict:
    robust = PGD[number]
    run = {"train_acc_list": [0.3, 0.6, 0.9], "model_val_acc_list": [0.5, 0.7, 0.8],
           "model_pgd_acc_list": robust, "model_fgsm_acc_list": [0.3, 0.5, 0.5],
           "clean_acc": 80.0, "autoattack_acc": 30.0, "seed": int(number)}  # fmt: skip
    if average:
        run |= {"wa_val_acc_list": [0.4, 0.6, 0.7], "wa_pgd_acc_list": [0.1, 0.3, 0.6],
                "wa_fgsm_acc_list": [0.2, 0.4, 0.6]}  # fmt: skip
    return run


def content() -> dict:
    seeds = {n: {"method": n, "dataset": "cifar10", "clean_acc": {"mean": 80.0, "std": 0.0},
                 "seeds": {s: seed(s, n == "liet") for s in ("1", "0")}}
             for n in ("n_fgsm", "liet")}  # fmt: skip
    return {"cifar10": seeds, "cifar100": {"liet": seeds["liet"]}}


def write(folder, data=None):
    path = folder / "benchmark_data.json"
    path.write_text(json.dumps(content() if data is None else data))
    return path


def test_methods_become_runs_with_their_averages_as_networks(tmp_path):
    _, runs = read_benchmark(str(write(tmp_path)))
    assert list(runs) == ["FastAT n_fgsm", "FastAT liet"]
    ds = overfitting(runs)
    assert ds["label"].values.tolist() == ["FastAT n_fgsm", "FastAT liet", "FastAT liet (average)"]
    assert ds["epoch"].values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(ds["robust"][0], [PGD["0"], PGD["1"]])
    np.testing.assert_array_equal(ds["best_by_seed"][0], [0.5, 0.4])
    np.testing.assert_allclose(ds["gap_by_seed"][0], [0.2, 0.0])
    np.testing.assert_array_equal(ds["last_by_seed"][2], [0.6, 0.6])
    np.testing.assert_array_equal(ds["clean"][2, 0], [0.4, 0.6, 0.7])
    np.testing.assert_array_equal(ds["robust_train"][1, 1], [0.3, 0.6, 0.9])
    assert (ds["chosen_on_test_by_seed"] == 1).all()
    _, some = read_benchmark(f"{tmp_path / 'benchmark_data.json'}@cifar100", ["liet"])
    assert list(some) == ["FastAT liet"]


def broken(change):
    data = content()
    change(data["cifar10"]["liet"])
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "does not map"),
        ({"cifar10": 3}, "does not map"),
        ({"mnist": {}}, "unknown data set of --benchmark"),
        (broken(lambda m: m.pop("seeds")), "liet has no seeds"),
        (broken(lambda m: m["seeds"]["0"].pop("model_pgd_acc_list")), "liet, seed 0 lacks shares"),
        (broken(lambda m: m["seeds"]["1"]["wa_pgd_acc_list"].pop()), "lists of 2 and 3 epochs"),
        (broken(lambda m: m["seeds"]["1"].update(train_acc_list=[1, 2, 3])), "shares of 0..1"),
    ],
)
def test_other_files_are_refused(data, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_benchmark(str(write(tmp_path, data)))


def test_the_command_sets_them_beside_a_run_and_says_what_they_are(tmp_path):
    write(tmp_path)
    lines = [{"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "val_target_accuracy": 0.1 * e,
              "test_target_accuracy": 0.1 * e, "test_clean_accuracy": 0.6}
             for e in (1, 2)]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = "analyze_overfitting --metrics mine.jsonl --benchmark benchmark_data.json"
    done = call(f"{line} --benchmark_methods n_fgsm", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PGD-10, l_inf 8/255, on 1,000 held-out images" in done.stdout
    ds = load_result(tmp_path / "overfitting.nc", "overfitting")
    assert ds["label"].values.tolist() == ["mine", "FastAT n_fgsm"]
    for options, message in (
        (f"{line} --benchmark_methods nfgsm", "did you mean 'n_fgsm'"),
        (f"{line[:-5]}.jsn", "no such file"),
        ("analyze_overfitting --metrics mine.jsonl --benchmark_methods liet", "needs --benchmark"),
    ):
        bad = call(f"{options} --out_file bad.nc", tmp_path)
        assert bad.returncode == 2 and message in bad.stderr
        assert not (tmp_path / "bad.nc").exists()
