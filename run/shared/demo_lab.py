"""The demo: its options, its networks and its measurements."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import xarray as xr

from ridgeline.analysis.adversaries import adversaries
from ridgeline.analysis.frequency.filters import filter_spectrum
from ridgeline.analysis.perturbations import similarity_matrix
from ridgeline.analysis.robustness import robustness
from ridgeline.analysis.training.metrics import read_metrics
from ridgeline.landscape.curvature.eigenpairs import eigenpairs_dataset, hessian_of, top_eigenpairs
from ridgeline.landscape.problem import Problem
from ridgeline.landscape.result import held
from ridgeline.landscape.surfaces.axes import grid
from ridgeline.landscape.surfaces.curve import CurveTraining
from ridgeline.landscape.surfaces.curve_scan import scan_curve
from ridgeline.landscape.surfaces.scan import scan
from ridgeline.landscape.weights.directions import random_direction
from ridgeline.landscape.weights.paths import Plane, straight
from ridgeline.models import InputError
from ridgeline.run.shared import networks
from ridgeline.run.shared import options as o
from ridgeline.run.shared.command import Complete, Compute, Tick, completed, computed
from ridgeline.train.attacks import PGD
from ridgeline.train.data.datasets import load_images
from ridgeline.train.data.noise import STREAMS, another_seed, check_seed
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.recipe import Recipe, normal_form
from ridgeline.train.files.run_files import DONE, RunFiles
from ridgeline.train.loop import fit
from ridgeline.train.methods import Adversarial, Method, Setup, Standard
from ridgeline.train.methods.adversarial import AdversarialOptions
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.options import Opt, Options
from ridgeline.train.schedules.shapes import Cycle, CycleCosine

NETWORKS = ("plain", "constant", "PAS", "PAS_2")


@dataclass(frozen=True)
class DemoOptions(Options):
    """All settings of the demo. With the defaults it takes six minutes on two cores."""

    out_folder: Annotated[str, Opt("folder of checkpoints and results", decides=False)] = (
        "runs/demo"
    )
    figure_folder: Annotated[str, Opt("folder of the figures", decides=False)] = "figures"
    width: Annotated[int, Opt("width factor of the LeNet", low=1)] = 4
    train_size: Annotated[int, Opt("training images of mnist5k, at most 4000", low=1)] = 4000
    epoch_num: Annotated[int, Opt("epochs of adversarial training", low=1)] = 16
    iter_num: Annotated[int, Opt("PGD steps in training", low=1)] = 5
    eps: Annotated[float, Opt("training budget, of [0,1]")] = 0.4
    probe_eps: Annotated[float, Opt("budget of surfaces and similarities, of [0,1]")] = 0.1
    hessian_size: Annotated[int, Opt("training images in the Hessian", low=1)] = 500
    scan_size: Annotated[int, Opt("training images in scans", low=1)] = 150
    scan_points: Annotated[int, Opt("grid points per axis of the surface", low=1)] = 15
    curve_epochs: Annotated[int, Opt("epochs of curve training", low=1)] = 8
    test_size: Annotated[int, Opt("test images under PGD-40", low=1)] = 500
    seed: Annotated[int, Opt("seed of everything random")] = 0
    gpu: o.Gpu = None
    overwrite: Annotated[bool, Opt("compute everything again", decides=False)] = False

    def check(self) -> None:
        """Raise InputError for budgets in the wrong order and for a wrong seed."""
        check_seed(self.seed)
        if not 0 < self.probe_eps <= self.eps <= 1:
            raise InputError("needs 0 < --probe_eps <= --eps <= 1, as fractions of [0,1]")


class Lab:
    """The demo's networks and measurements, in order."""

    def __init__(self, demo: DemoOptions):
        self.demo, self.folder = demo, Path(demo.out_folder)
        self.train = load_images("mnist5k", "train").subset(demo.train_size)
        self.test = load_images("mnist5k", "test")
        self.attack = PGD(eps=demo.eps, iterations=demo.iter_num)
        self.probe = PGD(eps=demo.probe_eps, iterations=5)
        self.model = {
            "model_type": "lenet", "width": demo.width, "bias": True, "normalize": None,
            "num_classes": self.train.num_classes, "image_shape": self.train.image_shape,
        }  # fmt: skip
        self.device = networks.device_of(demo.gpu)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line with the time since the start."""
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", flush=True)

    def fit(self, name: str, method: Method, epochs: int, seed: int) -> list[dict]:
        """Train, resume or skip one run of the demo."""
        recipe = {
            "command": "demo", "run": name, "model": self.model,
            "data": networks.data_recipe(self.train, "mnist5k"), "epochs": epochs, "seed": seed,
            "streams": STREAMS,
            "attack": repr(getattr(method, "attack", None)),
            "eps_schedule": repr(getattr(method, "eps_schedule", None)),
        }  # fmt: skip
        files = RunFiles(self.folder, name, normal_form(recipe))
        resume = files.holding(method).prepare(self.demo.overwrite, anew=self.anew)
        if resume == DONE:
            return read_metrics(files.path(".jsonl"))
        return fit(
            method, self.train, self.test.subset(min(100, len(self.test))), epochs=epochs,
            batch_size=50, optimizer=parse_optimizer("name=adam,lr=1e-3"), seed=seed, files=files,
            resume=resume, device=self.device,
        )  # fmt: skip

    def result(self, name: str, kind: str, compute: Compute, total: int | None = 0) -> xr.Dataset:
        """The stored result of this recipe, or a new one."""
        path, recipe = self.folder / f"{name}.nc", self.recipe(name)
        return computed(kind, path, recipe, compute, overwrite=self.replaces(path, recipe),
                        total=total, title=name)  # fmt: skip

    def grid(self, name: str, kind: str, compute: Complete) -> xr.Dataset:
        """The stored grid of this recipe, completed."""
        path, recipe = self.folder / f"{name}.nc", self.recipe(name)
        return completed(kind, path, recipe, compute, overwrite=self.replaces(path, recipe))

    def replaces(self, path: Path, recipe: Recipe) -> bool:
        """Whether the file at a path is to be replaced."""
        kept = not self.anew and held(path, recipe, self.demo.overwrite) is not None
        return self.demo.overwrite and not kept

    def recipe(self, name: str) -> Recipe:
        """The recipe of a result."""
        return {
            "command": "demo", "result": name, "demo": self.demo.recipe(), "streams": STREAMS,
            "attack": repr(self.attack), "probe": repr(self.probe), "model": self.model,
            "data": networks.data_recipe(self.train, "mnist5k"), "checkpoints": self.checkpoints,
        }  # fmt: skip

    def problem(self, name: str, size: int) -> Problem:
        """The trained network `name` on a fixed subset of the training images."""
        network = networks.fresh_network(self.model, 0)
        load_checkpoint(self.folder / f"{name}.ckpt").load_into(network)
        images = self.train.subset(min(size, len(self.train)))
        return Problem(network, images, device=self.device)

    def run(self) -> None:
        """Train, measure, draw, report.

        An interrupted demo with --overwrite leaves a mark: the next one keeps complete results.
        """
        mark = self.folder / ".overwriting"
        self.anew = self.demo.overwrite and not mark.exists()
        if self.demo.overwrite:
            self.folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        self.study()
        mark.unlink(missing_ok=True)

    def study(self) -> None:
        """The whole job, in order."""
        from ridgeline.run.shared.demo_report import draw_figures, summary  # slow to import

        metrics = self.train_networks()
        self.checkpoints = {
            name: load_checkpoint(self.folder / f"{name}.ckpt").sha256 for name in NETWORKS
        }
        self.say("curvature")
        eigen = {
            (n, eps): self.result(
                f"hessian_{n}_eps{eps:g}", "hessian",
                lambda _, tick, n=n, eps=eps: self.eigenpairs(n, eps, tick), total=None,
            )
            for n in ("plain", "PAS")
            for eps in (0.0, self.demo.probe_eps, self.demo.eps)
        }  # fmt: skip
        self.say(f"surfaces, {self.demo.scan_points} x {self.demo.scan_points}")
        surfaces = {
            n: self.grid(f"surface_{n}", "scan", lambda c, s, n=n: self.surface(n, c, s))
            for n in ("plain", "PAS")
        }
        self.say("connecting curve")
        curve = self.connect()
        self.say("perturbations, spectra, robustness")
        similarity = self.similarity()
        names = ("plain_init", "plain", "constant", "PAS")
        spectra = {
            n: self.result(f"spectrum_{n}", "spectrum", lambda *_, n=n: self.spectrum(n))
            for n in names
        }
        accuracy = {n: self.robustness(n) for n in NETWORKS}
        target = Path(self.demo.figure_folder)
        budgets = (self.demo.probe_eps, self.demo.eps)
        draw_figures(
            target, self.folder, metrics, eigen, surfaces, budgets[0], curve, similarity, spectra,
            accuracy,
        )  # fmt: skip
        self.say(f"figures in {target}, see {target / 'overview.png'}")
        print(summary(self.folder, budgets, eigen, spectra, accuracy, curve))
        self.say("done")

    def train_networks(self) -> dict[str, list[dict]]:
        """Plain, PGD at constant budget, and PAS from two seeds."""
        demo = self.demo
        ramp = CycleCosine(
            eps_min=0, eps_max=1.5 * demo.eps, max=demo.eps, ckpt_list=Cycle((0, demo.epoch_num))
        )
        self.say("training: plain")
        plain = Standard(networks.fresh_network(self.model, demo.seed), Setup(device=self.device))
        self.fit("plain", plain, min(6, demo.epoch_num), demo.seed)
        metrics = {}
        half = max(1, demo.epoch_num // 2)  # long enough to show that the network is constant
        for name, schedule, seed, epochs in (
            ("constant", None, demo.seed, half),
            ("PAS", ramp, demo.seed, demo.epoch_num),
            ("PAS_2", ramp, another_seed(demo.seed, 1), demo.epoch_num),
        ):
            self.say(f"training: PGD-{demo.iter_num}, eps {demo.eps:g}, {name}")
            method = Adversarial(
                networks.fresh_network(self.model, seed),
                Setup(attack=self.attack, epochs=epochs, device=self.device),
                AdversarialOptions(attack_threshold_schedule=schedule),
            )  # fmt: skip
            metrics[name] = self.fit(name, method, epochs, seed)
        return metrics

    def eigenpairs(self, name: str, eps: float, tick: Tick) -> xr.Dataset:
        """Top-5 eigenpairs of the loss at a budget, adversarial images frozen."""
        problem = self.problem(name, self.demo.hessian_size)
        if eps:
            problem = problem.under(self.attack.at(eps))
        operator = hessian_of(problem, tick=tick)
        return eigenpairs_dataset(operator, top_eigenpairs(operator, 5, seed=self.demo.seed))

    def surface(self, name: str, cells, save) -> xr.Dataset:
        """Clean and adversarial loss over a filter-normalised random plane."""
        problem = self.problem(name, self.demo.scan_size)
        plane = [random_direction(problem.origin, self.demo.seed, number=k) for k in (0, 1)]
        axis = grid(-1, 1, 2 / max(1, self.demo.scan_points - 1), "scan_points")

        def named(ds: xr.Dataset) -> None:
            for number, axis_name in enumerate(("x1", "x2"), start=1):
                ds[axis_name].attrs = {"long_name": f"random direction {number}",
                                       "units": "filter norm"}  # fmt: skip
            save(ds)

        return scan(
            problem.under(self.probe), Plane([problem.origin, *plane]), {"x1": axis, "x2": axis},
            budgets=[0.0, self.probe.eps], cells=cells, save=named,
            description=f"surface of {name}",
        )  # fmt: skip

    def connect(self) -> xr.Dataset:
        """A Bezier curve between the two PAS minima, trained and scanned under the attack."""
        ends = [self.problem(n, self.demo.scan_size).origin for n in ("PAS", "PAS_2")]
        problem = self.problem("PAS", self.demo.scan_size).under(self.attack)
        knots = straight(*ends, 3)
        method = CurveTraining(
            problem.network, knots, (1, 0, 1), "bezier", self.attack, device=self.device
        )
        self.fit("curve", method, self.demo.curve_epochs, self.demo.seed)
        load_checkpoint(self.folder / "curve.ckpt").load_into(method.network)
        subsets = {
            "train": problem.images,
            "test": self.test.subset(min(self.demo.scan_size, len(self.test))),
        }
        return self.grid(
            "curve_scan", "curve",
            lambda c, s: scan_curve(
                problem, method.path, np.linspace(0, 1, 11), subsets, cells=c, save=s
            ),
        )  # fmt: skip

    def similarity(self) -> xr.Dataset:
        """Cosines of the perturbations of three networks, with the noise floor."""
        names, size = ("plain", "PAS", "PAS_2"), min(300, self.demo.test_size)

        def compute(_, tick: Tick) -> xr.Dataset:
            sets = {}
            for name in names:
                on_train = self.problem(name, size)
                problems = {"train": on_train, "test": on_train.on(self.test.subset(size))}
                sets[name] = adversaries(problems, self.probe, 2, tick)
            return similarity_matrix(sets, ("train", "test"))

        return self.result("similarity", "similarity", compute, 4 * size * len(names))

    def spectrum(self, name: str) -> xr.Dataset:
        """Filter spectrum of a network of the demo."""
        return filter_spectrum(load_checkpoint(self.folder / f"{name}.ckpt").tensors)

    def robustness(self, name: str) -> xr.Dataset:
        """Clean and PGD-40 accuracy on test images."""
        images = self.test.subset(min(self.demo.test_size, len(self.test)))
        attack = PGD(eps=self.demo.eps, iterations=40)

        def compute(_, tick: Tick) -> xr.Dataset:
            return robustness([self.problem(name, 1).on(images).under(attack)], tick=tick)

        return self.result(f"robustness_{name}", "robustness", compute, 2 * len(images))
