"""Further measures of a training command besides the scores, from its options."""

from __future__ import annotations

from typing import Any

from ridgeline.models import InputError
from ridgeline.run.shared.options import Training
from ridgeline.train.data.examples import Images
from ridgeline.train.methods import Method, Step
from ridgeline.train.watching import Watch, check_certified, constant_line

_OPTIONS = ("eval_freq", "gradient_size", "certify_size")


def watch_of(training: Training, method: Method, images: Images) -> Watch:
    """The chosen measures. Raises InputError if the method does not have them."""
    if method.judged is None and (training.gradient_size or training.certify_size):
        raise InputError("--gradient_size and --certify_size are for networks, not for a curve")
    last = max(method.setup.epochs - 1, 0)
    if training.certify_size:
        own = method.training_attack(Step(last, last, 0, training.seed))
        if own is None:
            raise InputError(
                f"--certify_size looks at the attack of training, and {method.label} has none"
            )
        check_certified(own)
    return Watch(
        training.eval_freq,
        images.subset(training.gradient_size) if training.gradient_size else None,
        images.subset(training.certify_size) if training.certify_size else None,
    )


def watch_recipe(training: Training) -> dict[str, Any]:
    """The entry in a run's recipe; empty for the defaults."""
    default = Training()
    given = {name: getattr(training, name) for name in _OPTIONS}
    chosen = {k: v for k, v in given.items() if v != getattr(default, k)}
    return {"watch": chosen} if chosen else {}


def closing_lines(line: dict[str, Any]) -> str:
    """The lines on the last epoch after the metrics: strength of its attack, constant network."""
    text = ""
    if "certificate_gap" in line:
        own, strong = (line[f"certificate_{w}_accuracy"] for w in ("own", "strong"))
        text += (
            f"attack certificate: accuracy {own:.4g} under the attack of training, {strong:.4g} "
            f"under stronger ones at eps {line['certificate_eps']:.4g}; gap "
            f"{line['certificate_gap']:.4g} +- {line['certificate_gap_se']:.2g}\n"
        )
    if line.get("constant_classifier"):
        text += f"WARNING: {constant_line(line)}\n"
    return text
