"""The command lines of the seeds' READMEs, with our script in the place of theirs."""

from __future__ import annotations

import importlib
import json

import pytest
from PIL import Image

from ridgeline.run.shared.aliases import ALIASES
from ridgeline.run.shared.launch import arguments, help_text, options_of
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.schedules import parse_rate
from tests.commands import tiny_set

#: as the READMEs have them, less the script's name; line breaks are joined
README = {
    "apart": "train_apart --layerwise --gpuid 0",
    "ffr baseline": "train_frequency --data_dir DATA_DIR --output_dir OUT_DIR --model "
    "efficientnet-b0 --basis_filter None --scheduler Cosine --learning_rate 0.001 --optimizer "
    "adamw --weight_decay 0.05 --l2_reg 0 --l2_lambda 0.01",
    "ffr": "train_frequency --data_dir DATA_DIR --output_dir OUT_DIR --model efficientnet-b0 "
    "--basis_filter WD --scheduler scheduler --learning_rate 0.001 --optimizer adamw "
    "--weight_decay 0.05 --l2_reg 1 --l2_lambda 0.01",
    "ffr resnet9": "train_frequency --data_dir DATA_DIR --output_dir OUT_DIR --model "
    "lowres_resnet9 --basis_filter WD --scheduler Step --learning_rate 0.01 --optimizer adamw "
    "--weight_decay 0.01 --l2_reg 1 --l2_lambda 0.01",
    "fomo": "train_lure --data <data_dir> --log-dir <log_dir> --run <name_of_the_experiment> "
    "--dataset cifar10 --arch resnet18 --seed 10 --epochs 50 --decreasing_lr 20,40 --batch_size 64 "
    "--weight_decay 1e-4 --meta_batch_size 6250 --meta_batch_number 8 --snip_size 0.20 --save_dir "
    "<save-dir> --sparsity_level 1 -wb --gamma 0.1 --use_snip",
    "fomo imagenet": "train_lure --data <data_dir> --imagenet_path <imagenet> "
    "--run <name_of_the_experiment> --dataset restricted_imagenet --arch resnet50 "
    "--seed 10 --epochs 50 --decreasing_lr 20,40 --batch_size 128 --weight_decay 1e-4 "
    "--meta_batch_size 6250 --meta_batch_number 8 --snip_size 0.20 --save_dir <save-dir> "
    "--sparsity_level 1 -wb --gamma 0.1 --use_snip",
}
#: what a short run changes
SHORT = {
    "apart": "--dataset tiny.npz --width 1 --epochs 1 --batch_size 10 --subset_size 20 --eval_size "
    "5 --attack name=pgd,threshold=8,iter_num=1 --model_type resnet9",
    "ffr baseline": "--dataset tiny.npz --width 1 --max_epochs 1 --batch_size 10 --subset_size 20",
    "ffr": "--dataset tiny.npz --width 1 --max_epochs 1 --batch_size 10 --subset_size 20",
    "ffr resnet9": "--dataset tiny.npz --width 1 --max_epochs 2 --batch_size 10 --subset_size 20",
    "fomo": "--width 1 --dataset tiny.npz --epochs 1 --batch_size 8 --meta_batch_size 12 "
    "--meta_batch_number 2",
}


def parsed(line: str):
    command, *argv = line.split()
    return arguments(importlib.import_module(f"ridgeline.run.{command}").main, argv)


def shorter(line: str, changes: str) -> str:
    """The line with some options changed, others added."""
    words, extra = line.split(), changes.split()
    for flag, value in zip(extra[::2], extra[1::2], strict=True):
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return " ".join(words).replace("--gpuid 0", "--gpuid cpu")


def rates(found) -> list[float]:
    training = found["training"]
    optimizer = parse_optimizer(training.optim)
    rate = parse_rate(training.lr_schedule, optimizer.lr, training.epoch_num)
    return [rate(epoch) for epoch in range(training.epoch_num)]


def test_apart():
    found = parsed(README["apart"])
    assert found["training"].gpu == "0"
    assert found["apart"].layerwise


@pytest.mark.parametrize(
    ("name", "model", "lr", "decay", "basis", "penalised"),
    [("ffr baseline", "efficientnet_b0", 0.001, 0.05, None, False),
     ("ffr", "efficientnet_b0", 0.001, 0.05, "WD", True),
     ("ffr resnet9", "resnet9", 0.01, 0.01, "WD", True)],
)  # fmt: skip
def test_ffr(name, model, lr, decay, basis, penalised):
    found = parsed(README[name])
    optimizer = parse_optimizer(found["training"].optim)
    assert (optimizer.name, optimizer.lr) == ("adamw", lr)
    assert optimizer.options == {"weight_decay": decay}
    assert found["fresh"].model_type == model
    assert found["fresh"].width is None
    assert found["training"].data_dir == "DATA_DIR"
    assert found["output"].out_folder == "OUT_DIR"
    assert (found["frequency"].basis_filter, found["frequency"].l2_reg) == (basis, penalised)
    values = rates(found)
    assert values[0] == lr
    if name == "ffr resnet9":  # every 30 of 125 epochs a tenth
        expected = [lr * 0.1 ** (epoch // 30) for epoch in range(125)]
        assert values == pytest.approx(expected)
    else:
        assert 0 < values[-1] < 1e-3 * lr


@pytest.mark.parametrize(
    ("name", "folder", "model"),
    [("fomo", "<data_dir>", "resnet18"), ("fomo imagenet", "<imagenet>", "resnet50")],
)
def test_lure(name, folder, model, caplog):
    found = parsed(README[name])
    training, lure = found["training"], found["lure"]
    optimizer = parse_optimizer(training.optim)
    assert (optimizer.lr, optimizer.options["weight_decay"]) == (0.1, 1e-4)
    assert (training.data_dir, found["fresh"].model_type) == (folder, model)
    assert (training.seed, training.epoch_num) == (10, 50)
    assert found["output"].model_name == "<name_of_the_experiment>"
    assert found["output"].out_folder == "<save-dir>"
    assert (lure.snip_size, lure.rule, lure.replay) == (0.2, "snip", "full")
    assert rates(found) == pytest.approx([0.1] * 20 + [0.01] * 20 + [0.001] * 10)
    silent = {r.getMessage().split()[0] for r in caplog.records}
    assert silent == {"--sparsity_level", "-wb"} | ({"--log-dir"} if name == "fomo" else set())


@pytest.mark.parametrize(
    ("flag", "replay"), [("-buffer_replay", "buffer"), ("-no_replay", "none"),
                         ("-one_replay", "one"), ("--no-replay", "none")],
)  # fmt: skip
def test_switches_of_replay(flag, replay):
    assert parsed(f"{README['fomo']} {flag}")["lure"].replay == replay


@pytest.mark.parametrize(
    ("flags", "shots"), [("-few_shot", 100), ("-few_shot --n_shots 7", 7), ("--n_shots 7", None),
                         ("--shots 7", 7), ("-snip_no_replay", None)],
)  # fmt: skip
def test_few_shots_of_lure(flags, shots, caplog):
    assert parsed(f"train_lure {flags}")["lure"].shots == shots
    silent = flags in ("--n_shots 7", "-snip_no_replay")
    assert ("has no effect" in caplog.text) == silent


@pytest.mark.parametrize("name", SHORT)
def test_the_commands_run_shortened(name, tmp_path, run_command):
    tiny_set(tmp_path)
    line = shorter(README[name].replace("<", "").replace(">", ""), SHORT[name])
    run_command(*line.split(), check=True)
    folder = {"apart": "runs", "fomo": "save-dir"}.get(name, "OUT_DIR")
    metrics = next((tmp_path / folder).rglob("*.jsonl")).read_text().splitlines()
    lines = [json.loads(text) for text in metrics]
    assert len(lines) == (2 if name == "ffr resnet9" else 1)
    if name == "ffr baseline":
        assert lines[0]["penalty"] == 0
    if name in ("ffr", "ffr resnet9"):
        assert lines[0]["penalty"] > 0


def test_the_command_on_restricted_imagenet_runs_shortened(tmp_path, run_command):
    """On images of 8 pixels, three dogs and three cats per split."""
    for part in ("train", "val"):
        for number in range(1000):
            (tmp_path / f"imagenet/{part}/n{number:08d}").mkdir(parents=True)
        for number in (151, 152, 268, 281, 282, 285):
            for copy in range(4):
                image = Image.new("RGB", (9, 8), (number % 256, 60 * copy, 0))
                image.save(tmp_path / f"imagenet/{part}/n{number:08d}/{copy}.JPEG")
    line = shorter(
        README["fomo imagenet"].replace("<", "").replace(">", ""),
        "--dataset restricted_imagenet@8 --width 1 --epochs 1 --meta_batch_size 12 "
        "--meta_batch_number 2 --batch_size 8",
    )
    run_command(*line.split(), check=True)
    recipe = load_checkpoint(tmp_path / "save-dir/name_of_the_experiment_chunk2.ckpt").recipe
    assert recipe["data"]["dataset"] == "restricted_imagenet@8"
    assert recipe["model"]["model_type"] == "resnet50"
    assert recipe["model"]["num_classes"] == 9


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train_apart --gpuid 0 --gpu cpu", "--gpuid stands for --gpu, and --gpu says that too"),
        ("train_apart --no_cuda --gpuid 0", "--gpuid stands for --gpu, and --no_cuda says"),
        ("train_apart --wd 1e-4 --weight_decay 1e-4", "--weight_decay stands for weight_decay of "
         "--optim, and --wd says that too"),
        ("train_frequency --learning_rate 1 --optim name=sgd,lr=1", "and --optim says that too"),
        ("train_frequency --scheduler Steps", "did you mean 'Step'"),
        ("train_frequency --optimizer adahessian", "optimiser name in --optim 'adahessian'"),
        ("train_frequency --learning_rate", "--learning_rate needs a value"),
        ("train_frequency --model resnet9 --model resnet9", "--model is given twice"),
        ("train_lure -no_replay -buffer_replay", "-buffer_replay stands for --replay buffer, and "
         "-no_replay says that too"),
        ("train_lure -few_shot --shots 7", "-few_shot stands for --shots 100, and --shots says"),
        ("train_lure -wb 1", "-wb is a switch"),
        ("train_lure --decreasing_lr 20,x", "--decreasing_lr must be a number"),
        ("train_normal --learning_rate 0.1", "unknown option '--learning_rate'"),
        ("train_lure -unknown", "unknown option '-unknown'"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_in_one_line(line, said, tmp_path, run_command):
    done = run_command(*line.split())
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_milestones_beyond_the_end_never_come():
    short = parsed("train_lure --epochs 10 --decreasing_lr 4,40 --gamma 0.5")
    assert rates(short) == pytest.approx([0.1] * 4 + [0.05] * 6)
    never = parsed("train_lure --epochs 10 --decreasing_lr 20,40 --gamma 0.5")
    assert rates(never) == [0.1] * 10
    assert rates(parsed("train_lure --epochs 10 --gamma 0.5")) == pytest.approx(
        [0.1] * 4 + [0.05] * 4 + [0.025] * 2
    )


def test_schedules_of_ffr():
    line = "train_frequency --max_epochs 100 --learning_rate 0.1 --optimizer sgd --scheduler "
    at = {name: rates(parsed(line + name)) for name in ("Step_wide", "FrankleStep", "None",
                                                         "WarmupCosine", "Cosine")}  # fmt: skip
    assert at["Step_wide"] == pytest.approx([0.1] * 60 + [0.02] * 40)
    assert at["FrankleStep"] == pytest.approx([0.1] * 80 + [0.01] * 20)
    assert at["None"] == [0.1] * 100
    assert at["WarmupCosine"][0] == 1e-8
    assert at["WarmupCosine"][15] == pytest.approx(0.05, rel=1e-6)
    assert at["WarmupCosine"][30] == max(at["WarmupCosine"]) == 0.1
    assert at["WarmupCosine"][65] == pytest.approx(0.05)
    assert at["Cosine"][50] == pytest.approx(0.05)
    optimizer = parse_optimizer(parsed(line + "Step")["training"].optim)
    assert (optimizer.name, optimizer.options["nesterov"]) == ("sgd", True)


@pytest.mark.parametrize("command", ALIASES)
def test_every_alias_is_one_and_stands_in_the_help(command):
    main = importlib.import_module(f"ridgeline.run.{command}").main
    options = options_of(main)
    text = help_text(main, f"{command}.py")
    for name, alias in ALIASES[command][1].items():
        assert name not in options
        assert alias.option is None or alias.option in options
        assert f"  --{name} " in text
    assert "aliases" not in help_text(importlib.import_module("ridgeline.run.plot").main, "plot.py")
