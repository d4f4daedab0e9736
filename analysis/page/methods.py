"""A methods paragraph and the references of what was used, from recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from ridgeline.analysis.page.attack_words import number, spoken
from ridgeline.analysis.page.references import REFERENCES, USED
from ridgeline.analysis.page.sources import Source, Subject


def methods(subjects: Sequence[Subject], sources: Sequence[Source]) -> list[str]:
    """Sentences of a methods section, without a number that no recipe holds."""
    found = [sentence for s in subjects for sentence in _trained(s)]
    measured: dict[str, list[str]] = {}
    for source in sources:
        for sentence in _measured(source):
            measured.setdefault(sentence, []).append(source.name)
    found += [f"{text} ({', '.join(names)})." for text, names in measured.items()]
    versions = {k: v for s in (*sources, *subjects) for k, v in s.provenance.items()
                if k in ("ridgeline", "torch")}  # fmt: skip
    if versions:
        found.append("Computed with " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".")
    return list(dict.fromkeys(found))


def citations(subjects: Sequence[Subject], sources: Sequence[Source]) -> dict[str, str]:
    """BibTeX entries by key of what was used: attacks, methods, diagnostics, measures."""
    text = json.dumps([*(s.recipe for s in subjects), *(s.recipe for s in sources)])
    held = {f"kind:{s.kind}" for s in sources}
    held |= {f"measure:{name}" for s in sources if s.kind == "sharpness"
             for name in s.result["measure"].values}  # fmt: skip
    keys = [key for word, key in USED if word in held or word in text]
    return {key: REFERENCES[key] for key in dict.fromkeys(keys)}


def _trained(subject: Subject) -> Iterator[str]:
    recipe = subject.recipe
    model, data = recipe.get("model") or {}, recipe.get("data") or {}
    if not isinstance(model, dict) or "model_type" not in model:
        return
    how = f" by {_method(recipe['method'])}" if isinstance(recipe.get("method"), str) else ""
    attack = recipe.get("attack")
    told = isinstance(attack, str) and attack != "None"
    against = f" against {spoken(attack)}" if told else ""
    options = recipe.get("options") if isinstance(recipe.get("options"), dict) else {}
    schedule = str(recipe.get("eps_schedule") or options.get("attack_threshold_schedule"))
    if against and schedule != "None":
        against += f", its budget following {_schedule(schedule)},"
    where = f" on {data.get('examples', '?')} images of {data['dataset']}" if data.get(
        "dataset") else ""  # fmt: skip
    count = recipe.get("epochs", recipe.get("epoch"))
    long = f" for {count} epochs" if isinstance(count, int) else ""
    seed = f" (seed {recipe['seed']})" if "seed" in recipe else ""
    yield (f"Network {subject.name} ({model['model_type']}, width {model.get('width')}) was trained"
           f"{how}{where}{against}{long}{seed}.")  # fmt: skip


def _schedule(text: str) -> str:
    """A schedule as recipes write it, with numbers as people write them, without what is unset."""
    text = re.sub(r"\d+\.\d{5,}", lambda found: number(float(found[0])), text)
    return re.sub(r"\b\w+=None(, )?", "", text)


def _method(name: str) -> str:
    plain = {
        "standard": "standard training", "adversarial": "adversarial training",
        "trades": "TRADES", "apart": "APART", "cure": "CURE", "cure_paper": "CURE",
        "fomo": "FOMO", "liet": "LIET", "frequency": "training of frequency filters",
    }  # fmt: skip
    return plain.get(name, name)


_WHAT = {
    "robustness": "Accuracy, with 95 % Wilson intervals,",
    "budgets": "Accuracy at several budgets",
    "hessian": "The spectrum of the Hessian",
    "scan": "The loss along directions in weight space",
    "curve": "The loss along a curve and a line between minima",
    "sharpness": "Sharpness",
    "trajectory": "Curvature and accuracy by epoch",
    "scattering": "The change of perturbations and gradients with the weights",
    "adversaries": "Perturbations",
    "cka": "Centred kernel alignment by layer",
    "fourier": "The Fourier map of the error rate",
    "corruptions": "Accuracy under natural corruptions",
    "generator": "The strength of the generator by epoch",
    "pairs": "The likeness of all pairs of networks",
}


def _measured(source: Source) -> Iterator[str]:
    data = source.data
    if source.kind not in _WHAT or "dataset" not in data:
        return
    under = f" under {spoken(source.attack)}" if source.attack else ""
    seed = f", seed {source.recipe['seed']}" if "seed" in source.recipe else ""
    verb = "were" if source.kind in ("adversaries", "trajectory") else "was"
    count = f"{source.examples} images" if source.examples else "images"
    yield (f"{_WHAT[source.kind]} {verb} computed on {count} of {data['dataset']}{under}{seed}")
