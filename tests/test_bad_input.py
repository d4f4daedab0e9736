"""Bad values for every option of every command: one line, status 2, before anything is written."""

from __future__ import annotations

import contextlib
import importlib
import typing
from pathlib import Path

import pytest

from tests.commands import CHAIN, ROOT, call

#: values no option of that type takes, whatever it means
UNREADABLE = {
    int: ("abc", "1.5", "1e30", "nan", ""),
    float: ("abc", "nan", "inf", "1/0", ""),
    bool: ("maybe", "2", ""),
    str: ("",),
}
#: free text: any name of a file or a label is fine
FREE = {
    "model_name", "out_folder", "out_file", "label", "data_dir", "figure_folder", "title",
}  # fmt: skip
#: options that may be negative
SIGNED = {"vec_scale"}


def base_lines() -> dict[str, str]:
    """The first line of every command in the chain."""
    lines = {"selfcheck": "selfcheck", "demo": "demo", "redo": "redo --result runs/r_at.nc"}
    for line in CHAIN:
        lines.setdefault(line.split()[0], line)
    for command in ("plot", "report"):  # or the file that is there is what they stumble over
        lines[command] += " --overwrite"
    return lines


def test_the_chain_knows_every_command():
    """Sees a new command that is in no table of tests."""
    launched = {p.stem for p in (ROOT / "run").glob("*.py") if "launch(main" in p.read_text()}
    assert set(base_lines()) == launched


def with_value(line: str, name: str, value: str) -> str:
    """The command line with one option set to another value."""
    words = line.split(" ")
    flag = f"--{name}"
    if flag in words:
        place = words.index(flag)
        del words[place : place + 2]
    words = [w for w in words if w != f"--no{name}"]
    return " ".join([*words, f"{flag}={value}"])


def cases() -> list[tuple[str, str, str]]:
    """(command, option, command line) of every bad value."""
    launch = importlib.import_module("ridgeline.run.shared.launch")
    found = []
    for command, line in base_lines().items():
        options = launch.options_of(importlib.import_module(f"ridgeline.run.{command}").main)
        for name, option in options.items():
            kind = option.kind
            if typing.get_origin(kind) is tuple:
                kind = typing.get_args(kind)[0]
            values = list(UNREADABLE[kind])
            if kind in (int, float) and name not in SIGNED:
                values.append("-7")
            if kind is str and name not in FREE:
                values.append("nonsense")
            found += [(command, name, with_value(line, name, value)) for value in values]
    return found


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()
    }


def test_every_option_of_every_command_refuses_what_it_cannot_mean(every_result):
    """Sees an option that takes a value of the wrong type, sign or vocabulary, or fails late."""
    failures = []
    with contextlib.chdir(every_result):
        table = cases()
        before = listing(every_result)
        for _, name, line in table:
            try:
                status, said, error = call(line)
            except Exception as problem:  # a traceback is what must not happen
                failures.append((line, f"{type(problem).__name__}: {problem}"))
                continue
            value = line.rpartition("=")[2]
            named = name in error or (value and value in error)
            one_line = error.count("\n") == 1 and not said
            if status != 2 or not one_line or not named or "another recipe" in error:
                failures.append((line, status, said[:200], error[:300]))
            after = listing(every_result)
            if after != before:
                failures.append((line, "wrote", sorted(after.keys() ^ before.keys())[:3]))
                before = after
    assert len(table) > 1000
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_memory_that_runs_out_is_one_line(error, every_result, monkeypatch):
    """Sees a traceback; and another error hidden as if it were a lack of memory."""
    module = importlib.import_module("ridgeline.run.calc_cka")

    def fails(*args, **options):
        raise error

    monkeypatch.setattr(module, "computed", fails)
    with contextlib.chdir(every_result):
        done = call(base_lines()["calc_cka"])
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "out of memory" in done.stderr and "what is finished is kept" in done.stderr
        error = RuntimeError("shapes do not fit")
        with pytest.raises(RuntimeError, match="shapes"):
            call(base_lines()["calc_cka"])


SHARED = {
    "calc_hessian", "scan_param", "scan_curve", "test_ensemble", "train_normal", "train_fomo",
    "train_cure", "train_apart", "train_frequency", "train_curve", "train_lure",
}  # fmt: skip


def test_only_commands_that_share_their_work_run_under_torchrun(every_result, monkeypatch):
    """Sees a command that does the same work in every process and writes the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with contextlib.chdir(every_result):
        for command, line in base_lines().items():
            if command in SHARED:
                continue
            status, said, error = call(line)
            assert (status, said, error.count("\n")) == (2, "", 1), line
            assert "does not share its work" in error
        # one line for all processes: the others speak if torchrun has not ended them meanwhile
        waited = []
        monkeypatch.setattr("time.sleep", waited.append)
        monkeypatch.setenv("RANK", "1")
        status, said, error = call(base_lines()["calc_cka"])
        assert (status, said, error.count("\n"), waited) == (2, "", 1, [5.0])


def test_file_names_may_hold_commas(tmp_path):
    """Sees a list of files cut at a comma that belongs to a name."""
    with contextlib.chdir(tmp_path):
        launch = importlib.import_module("ridgeline.run.shared.launch")
        main = importlib.import_module("ridgeline.run.plot").main
        parsed = launch.arguments(main, ["--result", r"a\,b.nc,c.nc"])
    assert parsed["result"] == ("a,b.nc", "c.nc")


_OTHERS = "--model_name other --out_folder others"
_SCAN = f"scan_param --model2load runs/at.ckpt --subset_size 4 {_OTHERS}"
_TRAIN = f"train_normal --dataset tiny.npz --model_type lenet --width 1 --epoch_num 1 {_OTHERS}"
_HESSIAN = "calc_hessian --model2load runs/at.ckpt --subset_size 4 --out_file others/h"
_ENSEMBLE = "test_ensemble --subset_size 4 --model2load runs/at.ckpt --out_file others/e"
_CURVE = f"train_curve --model2load runs/at.ckpt,,runs/swa.ckpt {_OTHERS}"
_PGD = "name=pgd,threshold=0.1,iter_num=1"

#: command line -> what its one line must say
MEANINGLESS = {
    # attacks: every field of every attack
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=1,order=-2": "order",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=1,order=1": "order",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=0": "at least 1",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=1e30": "2^63",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=1,restarts=0": "at least 1",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=1,step_size=0": "positive",
    f"{_ENSEMBLE} --attack name=pgd,threshold=1.5,iter_num=1,step_size=3/2": "mixed units",
    f"{_ENSEMBLE} --attack name=pgd,threshold=3/2,iter_num=1": "at most 1",
    f"{_ENSEMBLE} --attack name=pgd,threshold=nan,iter_num=1": "finite",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1": "iter_num",
    f"{_ENSEMBLE} --attack name=pgd,iter_num=1": "threshold",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,iter_num=1,unit=2": "unknown key",
    f"{_ENSEMBLE} --attack pgd": "name=",
    f"{_ENSEMBLE} --attack name=pgd,eps=0.1,threshold=0.1,iterations=1": "eps (threshold) are one",
    f"{_ENSEMBLE} --attack name=pgd,eps=0.1,iterations=1,iter_num=1": "iterations (iter_num) are",
    f"{_ENSEMBLE} --attack name=pgd,eps=0.4,step_size=2,iterations=1": "eps=0.4/255",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.1,threshold=0.2,iter_num=1": "twice",
    f"{_ENSEMBLE} --attack name=apgd,threshold=0.1,rho=2": "rho",
    f"{_ENSEMBLE} --attack name=apgd,threshold=0.1,loss_type=mse": "loss_type",
    f"{_ENSEMBLE} --attack name=square,threshold=0.1,p_init=3": "p_init",
    f"{_ENSEMBLE} --attack name=square,threshold=0.1,rescale_schedule=maybe": "true",
    f"{_ENSEMBLE} --attack name=kl,threshold=0.1,iter_num=1,step_size=-1": "negative",
    f"{_ENSEMBLE} --attack name=fgsm,threshold=2/1": "at most 1",
    # budgets
    f"{_ENSEMBLE} --attack {_PGD} --adv_budget_list 0,8": "fractions",
    f"{_ENSEMBLE} --attack {_PGD} --adv_budget_list name=constant,start_v=0.1": "pt_num",
    f"{_ENSEMBLE} --attack {_PGD} --adv_budget_list name=constant,start_v=0.1,pt_num=2": "twice",
    f"{_ENSEMBLE} --attack {_PGD} --adv_budget_list name=exp,start_v=0.2,power=3,pt_num=9": "most",
    f"{_ENSEMBLE} --adv_budget_list 0,0.1": "needs --attack",
    f"{_TRAIN} --attack {_PGD} --attack_threshold_schedule name=linear,start_v=0,slope=3": "255",
    f"{_TRAIN} --attack {_PGD} --attack_threshold_schedule name=linear,start_v=0.5,slope=0.9":
        "epoch",
    f"{_TRAIN} --attack name=pgd,threshold=8/255,iter_num=1 --attack_threshold_schedule "
    "name=constant,start_v=0.5": "not clear",
    f"{_TRAIN} --attack {_PGD} --eval_attack name=pgd,threshold=8,iter_num=1": "fractions",
    # optimisers and schedules
    f"{_TRAIN} --optim name=sgd,lr=0.1,momentum=5": "momentum",
    f"{_TRAIN} --optim name=sgd,lr=-1": "lr",
    f"{_TRAIN} --optim name=sgd,lr=nan": "finite",
    f"{_TRAIN} --optim name=sgd": "lr",
    f"{_TRAIN} --optim name=adam,lr=0.1,betas=2:3": "betas",
    f"{_TRAIN} --optim name=sgd,lr=0.1,weight_decay=-1": "weight_decay",
    f"{_TRAIN} --optim name=sgd,lr=0.1,nesterov=perhaps": "nesterov",
    f"{_TRAIN} --lr_schedule name=jump,start_v=1,power=0.1,min_jump_pt=1,jump_freq=0": "jump_freq",
    f"{_TRAIN} --lr_schedule name=linear,start_v=0.1,slope=-1": "negative",
    f"{_TRAIN} --lr_schedule name=cycle_cos,eps_min=0,eps_max=1,ckpt_list=3:1": "increasing",
    f"{_TRAIN} --epoch_ckpts 5": "1..1",
    f"{_TRAIN} --val_fraction 1": "fraction",
    f"{_TRAIN} --subset_size 10000": "subset",
    f"{_TRAIN} --batch_size 1e30": "batch_size",
    f"{_TRAIN} --average swarm": "ema, swa",
    f"{_TRAIN} --normalize mean=0.5,std=0.5": "channels",
    f"{_TRAIN} --normalize mean=0.5:0.5:0.5,std=0:1:1": "std",
    # places and directions
    f"{_SCAN} --load_vec2 runs/at_vec1.ckpt": "vec2_scan",
    f"{_SCAN} --adversary frozen": "attack",
    f"{_SCAN} --vec_scale 0": "vec_scale",
    f"{_SCAN} --vec1_scan step=-1": "step",
    f"{_SCAN} --vec1_scan min=1,max=-1": "min <= max",
    f"{_SCAN} --vec1_scan min=0,max=1e9,step=1e-9": "too many",
    f"{_SCAN} --load_vec1 runs/at.jsonl": "checkpoint",
    f"{_SCAN} --load_vec1 runs/at_results.nc": "hessian",
    f"{_SCAN} --load_vec1 between:runs/cure.jsonl": "checkpoint",
    f"perturb_param --model2load runs/at.ckpt --vec_scale 0 {_OTHERS}": "vec_scale",
    f"perturb_param --model2load runs/total_vec0.ckpt --dataset tiny.npz {_OTHERS}": "direction",
    f"{_HESSIAN} --blocks each --topk 1000000000": "topk",
    f"{_HESSIAN} --operator input --topk 4000": "3072",
    f"{_HESSIAN} --operator input --blocks each": "no --blocks",
    f"{_HESSIAN} --diagonal_products 1": "at least 2",
    f"{_HESSIAN} --memory 0": "memory",
    f"{_HESSIAN} --compile True --operator ggn": "--compile is for",
    f"{_HESSIAN} --precision tf32": "CUDA",
    "selfcheck --precision tf32": "CUDA",
    f"{_SCAN} --vec1_scan min=-1,max=1,step=5": "one point",
    f"{_HESSIAN} --weight_decay -1": "weight_decay",
    f"{_HESSIAN} --density_probes 1 --density_steps 1": "density_steps",
    f"{_HESSIAN} --subset trained --dataset mnist5k": "another architecture",
    # curves and results
    f"{_CURVE} --fix_points 1,0,2": "1 (fixed) or 0",
    f"{_CURVE} --fix_points 1,0": "one entry per control point",
    f"{_CURVE} --fix_points 1,1,1": "free",
    f"{_CURVE} --fix_points 1,0,1 --val_fraction 0.1": "val_fraction",
    "scan_curve --model2load runs/curve.ckpt --fix_points 1,0,0,1": "3",
    "scan_curve --model2load runs/at.ckpt": "curve",
    "calc_trajectory --model2load runs/at_1.ckpt --initial runs/at_init.ckpt --subset train "
    "--metrics runs/at.jsonl --copy stable --out_file others/t": "stable",
    "calc_trajectory --model2load runs/at_1.ckpt,runs/at_1.ckpt --initial runs/at_init.ckpt":
        "given before",
    "analyze_overfitting --metrics runs/at.ckpt": "metrics",
    "analyze_spectral_bias --spectra runs/at_spectrum.nc --robustness runs/apgd.nc": "3 or more",
    "plot --result runs/total.nc,runs/apgd.nc --out_file others/p": "one kind",
    "plot --result runs/total.nc --out_file others/p.gif": "gif",
    "plot --result runs/total.nc --label a,b --out_file others/p": "label",
    "analyze_adversary --folder runs": "holds no result",
    "calc_cka --model2load runs/at.ckpt --subset_size 3 --second runs/swa.ckpt": "at least 4",
    "test_corruptions --model2load runs/at.ckpt --severities 6": "1..5",
    "test_corruptions --model2load runs/at.ckpt --severities 3,1,3": "twice",
    "test_corruptions --model2load runs/at.ckpt --corruptions rain": "unknown corruption",
    "calc_fourier --model2load runs/at.ckpt --cutoffs 0.5,0.2": "increasing",
    "test_ensemble --model2load runs/at.ckpt,runs/at.jsonl": "runs/at.jsonl",
    "demo --probe_eps 0.5 --eps 0.1": "probe_eps",
    # what does not belong together
    "perturb_param --model2load runs/at.ckpt --vec2load runs/total_vec0.ckpt --eigenvec_idx 1 "
    f"{_OTHERS}": "eigenvec_idx",
    f"perturb_param --model2load runs/at.ckpt --vec_scale 1e39 {_OTHERS}": "number range",
    "perturb_param --model2load runs/at.ckpt --model_name at --overwrite True": "input",
    f"perturb_param --model2load runs/at.ckpt --vec2load between:runs/at.ckpt {_OTHERS}":
        "length 0",
    f"{_SCAN} --load_vec1 between:runs/at.ckpt": "length 0",
    f"{_SCAN} --vec2_scan step=1 --load_vec1 runs/total_vec0.ckpt --load_vec2 runs/total_vec0.ckpt":
        "parallel",
    "calc_param_distance --ckpt_file1 runs/at.ckpt --ckpt_file2 runs/total_vec0.ckpt": "direction",
    f"{_TRAIN} --attack {_PGD} --average swa --average_from 1": "leaves no epoch",
    f"{_ENSEMBLE} --attack name=pgd,threshold=0.4,step_size=2,iter_num=1": "step_size=2 is above 1",
    "calc_trajectory --model2load runs/at_1.ckpt,runs/swa.ckpt --initial runs/at_init.ckpt "
    "--subset train --out_file others/t": "another run",
    "analyze_generator --model2load runs/at_1.ckpt,runs/swa.ckpt --reference runs/swa.ckpt "
    "--out_file others/g": "another run",
    "analyze_spectral_bias --spectra "
    "runs/swa_spectrum.nc,runs/at_spectrum.nc,runs/cure_spectrum.nc --robustness "
    "runs/r_at.nc,runs/r_swa.nc,runs/r_cure.nc --out_file others/b": "different checkpoints",
    "analyze_spectral_bias --spectra "
    "runs/at_spectrum.nc,runs/swa_spectrum.nc,runs/cure_spectrum.nc --robustness "
    "runs/apgd.nc,runs/r_swa.nc,runs/r_cure.nc --out_file others/b": "was judged unlike",
    "analyze_overfitting --metrics runs/at.jsonl,runs/at.jsonl --label A,A --out_file others/o":
        "twice",
    # methods
    f"train_cure --dataset tiny.npz --percentile 101 {_OTHERS}": "percent",
    f"train_cure --dataset tiny.npz --percentile 0.3 {_OTHERS}": "write --percentile 30",
    f"train_cure --dataset tiny.npz --blocks 1 {_OTHERS}": "freeze",
    f"train_cure --dataset tiny.npz --cure_variant freeze --blocks 9 {_OTHERS}": "stage",
    f"train_cure --dataset tiny.npz --natural runs/at.ckpt --natural_epochs 3 {_OTHERS}": "one",
    f"train_fomo --dataset tiny.npz --fomo_rate 2 {_OTHERS}": "0..1",
    f"train_fomo --dataset tiny.npz --epoch_num 3 {_OTHERS}": "cycle",
    f"train_fomo --dataset tiny.npz --fomo_lr hold:0 {_OTHERS}": "fomo_lr",
    f"train_lure --dataset tiny.npz --meta_batch_size 1000 {_OTHERS}": "chunks",
    f"train_lure --dataset tiny.npz --snip_size 0 {_OTHERS}": "snip_size",
    f"train_apart --dataset tiny.npz --eps 3/2 {_OTHERS}": "--eps",
    f"train_apart --dataset tiny.npz --eps 0 {_OTHERS}": "--eps",
    f"train_apart --dataset tiny.npz --attack {_PGD},order=2 {_OTHERS}": "order=-1",
    f"train_liet --dataset tiny.npz --eps 3/2 {_OTHERS}": "--eps",
    f"train_liet --dataset tiny.npz --noise_low 0.7 {_OTHERS}": "--noise_high 0.5",
    f"train_liet --dataset tiny.npz --attack {_PGD},order=2 {_OTHERS}": "order=-1",
    f"train_frequency --dataset tiny.npz --reg_depth 0 {_OTHERS}": "reg_depth",
    f"train_frequency --dataset tiny.npz --min_kernel_size 9 {_OTHERS}": "size 9",
}  # fmt: skip


def test_values_of_the_right_type_that_mean_nothing_are_refused(every_result):
    """Sees an option accepted in silence, a traceback, or a refusal after something was written."""
    failures = []
    with contextlib.chdir(every_result):
        before = listing(every_result)
        for line, expected in MEANINGLESS.items():
            try:
                status, said, error = call(line)
            except Exception as problem:
                failures.append((line, f"{type(problem).__name__}: {problem}"))
                continue
            fine = status == 2 and error.count("\n") == 1 and not said and expected in error
            if not fine or "another recipe" in error:
                failures.append((line, status, said[:100], error[:300]))
            after = listing(every_result)
            if after != before or (every_result / "others").exists():
                failures.append((line, "wrote", sorted(after.keys() ^ before.keys())[:3]))
                before = after
    assert not failures, "\n".join(map(str, failures))
