"""TRADES, weight perturbation, averages, FOMO and CURE against their definitions."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.nn import functional as F

from ridgeline.models import ANY_SIZE, MODELS, InputError, build_model
from ridgeline.models.stages import CLASSIFIER, STEM, later, stages
from ridgeline.train.attacks import PGD, away_from_clean, parse_attack
from ridgeline.train.data.noise import Noise, Purpose
from ridgeline.train.evaluation import scores_of_networks
from ridgeline.train.files.checkpoint import load_checkpoint
from ridgeline.train.files.run_files import RunFiles
from ridgeline.train.loop import fit
from ridgeline.train.losses import divergence
from ridgeline.train.methods import Adversarial, Cure, Fomo, Setup, Step
from ridgeline.train.methods.adversarial import AdversarialOptions
from ridgeline.train.methods.cure_options import VARIANTS, CureOptions
from ridgeline.train.methods.fomo_options import FomoOptions
from ridgeline.train.objectives import Madry, Trades
from ridgeline.train.optimizers import parse_optimizer
from ridgeline.train.parts.forgetting import draw_masks, forgettable, lowest
from ridgeline.train.parts.freezing import FreezeOptions, train_only
from ridgeline.train.parts.gradient_mask import update_masks
from ridgeline.train.parts.phases import PhaseRate, Phases
from ridgeline.train.parts.saliency import snip
from ridgeline.train.parts.weight_average import Average
from ridgeline.train.parts.weight_perturbation import WeightPerturbation
from tests.conftest import make_conv_bn, make_images, make_mlp

ATTACK = PGD(eps=0.1, iterations=2)
SGD = parse_optimizer("name=sgd,lr=0.05,momentum=0.9,weight_decay=5e-4")


def preact(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("preact", (1, 28, 28), width=1)


def images(count: int = 40):
    return make_images(count, (1, 28, 28), classes=10)


def train(method, data, *, epochs=2, **options):
    return fit(method, data, data.subset(8), epochs=epochs, batch_size=20,
               optimizer=SGD, **options)  # fmt: skip


def adversarial(network: nn.Module, **options) -> Adversarial:
    return Adversarial(network, Setup(attack=ATTACK), AdversarialOptions(**options))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("name", "shape"), [*MODELS, *((n, (3, 32, 32)) for n in ANY_SIZE)])
def test_stages_part_every_network(name, shape):
    network = build_model(name, shape, width=1)
    found = stages(network)
    assert (next(iter(found)), list(found)[-1]) == (STEM, CLASSIFIER)
    everything = [n for group in found.values() for n in group]
    assert sorted(everything) == sorted(n for n, _ in network.named_parameters())
    assert all(found.values())


def test_later_layers_are_the_published_ones():
    assert later(preact()) == ("3", "4", CLASSIFIER)
    network = build_model("preact", (3, 32, 32), width=16)
    sizes = {n: sum(network.get_parameter(p).numel() for p in names if "bn" not in p)
             for n, names in stages(network).items()}  # fmt: skip
    assert (sizes["3"], sizes["4"]) == (2_097_152, 8_388_608)
    chosen = forgettable(network)
    assert set(chosen) == {f"layer{s}.{b}.conv{c}.weight" for s in (3, 4) for b in (0, 1)
                           for c in (1, 2)} | {"classifier.weight"}  # fmt: skip
    assert "layer3.0.shortcut.weight" in forgettable(network, shortcut=True)
    assert "classifier.weight" not in forgettable(network, classifier=False)
    wide = build_model("wrn16", (3, 32, 32), width=2)  # whose shortcut is spelled convShortcut
    assert not [n for n in forgettable(wide, "all") if "Shortcut" in n]
    assert "block3.layer.0.convShortcut.weight" in forgettable(wide, shortcut=True)
    assert not set(forgettable(network, "first")) & set(chosen)
    with pytest.raises(InputError, match="allowed: all, first"):
        forgettable(network, "middle")


def test_divergence_is_the_kl_of_torch():
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = F.kl_div(b.log_softmax(1), a.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(a, b), expected)


def test_the_kl_attack_climbs_the_divergence_of_a_linear_classifier():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    x = make_images(12).pixels
    attack = PGD(eps=0.05, iterations=10, loss="kl", keep_best=False)
    found = attack(network, x, torch.zeros(12, dtype=torch.long), 0)
    assert (found - x).abs().max() <= 0.05 + 1e-12
    weight = (network[1].weight[0] - network[1].weight[1]).view(1, 1, 6, 6)
    gap = divergence(network(x), network(found))
    # along a line KL grows away from the clean point, so a corner of one of two signs is best
    best = torch.stack([divergence(network(x), network((x + s * 0.05 * weight.sign()).clamp(0, 1)))
                        for s in (1, -1)]).amax(0)  # fmt: skip
    assert (gap > 0.9 * best).double().mean() >= 0.4
    assert (gap >= divergence(network(x), network(x + 0.05 * torch.rand_like(x)))).all()
    assert torch.equal(found, attack(network, x, torch.ones(12, dtype=torch.long), 0))


def test_the_trades_loss_and_its_gradient():
    network, batch = make_mlp(), next(make_images(6).batches(6, dtype=torch.float64))
    x = (batch.x + 0.05).clamp(0, 1)
    loss, logits = Trades(3.0).loss(network, batch, x)
    clean = network(batch.x)
    p, q = clean.softmax(1), network(x).softmax(1)
    expected = F.cross_entropy(clean, batch.y) + 3 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits, network(x))
    weights = list(network.parameters())
    for a, b in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)  # through both sides of the divergence


def test_weight_perturbation_moves_by_gamma_and_goes_back():
    network, batch = make_conv_bn(), next(make_images(6).batches(6, dtype=torch.float64))
    network.train()
    before = copy.deepcopy(network.state_dict())
    loss_of = lambda: F.cross_entropy(network(batch.x), batch.y)  # noqa: E731
    with torch.no_grad():
        start = copy.deepcopy(network)
        first = F.cross_entropy(start(batch.x), batch.y)
    awp = WeightPerturbation(network, 0.01)
    awp.perturb(loss_of)
    for name, p in network.named_parameters():
        moved = (p - before[name]).norm()
        expected = 0.01 * before[name].norm() if p.ndim > 1 else 0.0
        assert moved.item() == pytest.approx(float(expected), rel=1e-9)
    assert all(torch.equal(b, before[n]) for n, b in network.named_buffers())
    assert loss_of() > first
    awp.restore()
    assert same({n: p.detach() for n, p in network.named_parameters()},
                {n: before[n] for n, _ in network.named_parameters()})  # fmt: skip


def test_training_with_weight_perturbation_descends_at_the_moved_weights():
    data = make_images(12)
    network = make_mlp().float()
    twin = copy.deepcopy(network)
    method = adversarial(network, awp_gamma=0.1)
    batch = next(data.batches(12))
    loss, _ = method.loss(batch, Step(0, 0.0, 0, 0))
    method.backward(loss)
    x = Madry().adversary(twin, ATTACK, batch, Noise(0, batch.index, 0, Purpose.TRAINING_ATTACK))
    moved = WeightPerturbation(twin, 0.1)
    moved.perturb(lambda: F.cross_entropy(twin(x), batch.y))
    F.cross_entropy(twin(x), batch.y).backward()
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    plain = adversarial(make_mlp().float())
    plain.loss(batch, Step(0, 0.0, 0, 0))[0].backward()
    assert not torch.equal(next(plain.network.parameters()).grad, next(network.parameters()).grad)


def test_averages_follow_their_formulas_and_share_nothing():
    network = make_conv_bn()
    ema, mean = Average(network, 0.9), Average(network, None)
    ema.restart()
    seen = []
    for step in range(3):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(step + 1.0)
            network.bn.running_mean.add_(1)
            network.bn.num_batches_tracked.add_(1)
        if step == 0:
            mean.restart()
        else:
            mean.update()
        before = ema.network.conv.weight.clone()
        ema.update()
        torch.testing.assert_close(
            ema.network.conv.weight, 0.9 * before + 0.1 * network.conv.weight
        )
        seen.append(network.conv.weight.detach().clone())
    torch.testing.assert_close(mean.network.conv.weight, torch.stack(seen).mean(0))
    assert torch.equal(ema.network.bn.num_batches_tracked, network.bn.num_batches_tracked)
    for average in (ema, mean):
        for a, b in zip(average.network.state_dict().values(), network.state_dict().values(),
                        strict=True):  # fmt: skip
            assert a.data_ptr() != b.data_ptr()
        assert not any(p.requires_grad for p in average.network.parameters())
    for decay, expected in ((1.0, "stays"), (0.0, "follows")):
        average = Average(network, decay)
        start = copy.deepcopy(average.network.state_dict())
        with torch.no_grad():
            network.conv.weight.add_(1)
        average.update()
        target = start if expected == "stays" else network.state_dict()
        torch.testing.assert_close(average.network.conv.weight, target["conv.weight"])


def test_ema_beside_training_equals_an_average_by_hand():
    data, network = images(), preact()
    method = adversarial(network, average="ema", average_decay=0.5, average_from=1)
    average = method.average
    by_hand = []
    original = method.after_step

    def spy(step):
        original(step)
        if step.epoch >= 1:
            by_hand.append(copy.deepcopy(network.state_dict()))

    method.after_step = spy
    start = {}
    method_start = method.start_epoch

    def spy_start(epoch):
        if epoch == 1:
            start.update(copy.deepcopy(network.state_dict()))
        return method_start(epoch)

    method.start_epoch = spy_start
    metrics = train(method, data, epochs=2)
    expected = start["layer1.0.conv1.weight"]
    for state in by_hand:
        expected = 0.5 * expected + 0.5 * state["layer1.0.conv1.weight"]
    torch.testing.assert_close(average.network.layer1[0].conv1.weight, expected)
    assert "test_average_target_accuracy" in metrics[-1]


# FOMO


def test_the_phases_of_the_defaults():
    phases = Phases(200)
    assert phases.count == 15
    assert [phases.at(e)[0] for e in (0, 104, 105, 109, 110, 111)] == [
        "learn", "learn", "relearn", "relearn", "consolidate", "relearn",
    ]  # fmt: skip
    assert {phases.at(e)[0] for e in range(195, 200)} == {"consolidate"}
    forgets = [e for e in range(200) if phases.at(e)[0] == "relearn" and phases.at(e)[2] == 0]
    assert len(forgets) == 15
    assert forgets[-1] + 1 <= 200 - 6 + 1
    assert phases.kept() == {0, 7, 14}
    with pytest.raises(InputError, match="no cycle of FOMO fits"):
        Phases(100)
    rate = PhaseRate(lambda t: 0.1, phases, 0.01, hold=True)
    assert (rate(104), rate(105)) == (0.1, 0.01)
    assert PhaseRate(lambda t: 0.1, phases, 0.4, hold=False)(108) == pytest.approx(0.25)


def fomo(network, epochs=4, warmup=1, relearn=2, *, data=None, **options):
    """FOMO with one epoch of consolidation; options without their prefix fomo_."""
    plain = {"objective", "trades_beta"}
    options = {k if k in plain else f"fomo_{k}": v for k, v in ({"rate": 0.1} | options).items()}
    setup = Setup(images=data, attack=ATTACK, epochs=epochs, seed=3, fresh=preact)
    return Fomo(network, setup, FomoOptions(fomo_warmup=warmup, fomo_relearn=relearn, **options))


def test_switched_off_it_is_adversarial_training_bit_for_bit():
    data = images()
    plain, other = preact(), preact()
    off = {"rate": 0.0, "lambda": 0.0}
    train(adversarial(plain), data, epochs=4)
    train(fomo(other, **off), data, epochs=4)
    assert same(plain.state_dict(), other.state_dict())
    trades = {"objective": "trades", "trades_beta": 2.0}
    train(adversarial(plain := preact(), **trades), data, epochs=4)
    train(fomo(other := preact(), **off, **trades), data, epochs=4)
    assert same(plain.state_dict(), other.state_dict())


def test_forgetting_replaces_an_exact_fraction_and_its_momentum_alone():
    network = preact()
    method = fomo(network)
    optimizer = SGD.build(network.parameters())
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    method.attach(optimizer)
    before = copy.deepcopy(network.state_dict())
    kept = method.start_epoch(1)
    assert set(kept) == {"cycle1_before", "cycle1_after"}
    assert same(kept["cycle1_before"], before)
    masks = draw_masks(method.weights_to_forget, 0.1, 3, 0)
    for name, value in network.state_dict().items():
        changed = value != before[name]
        if name not in masks:
            assert not changed.any(), name
            continue
        assert changed.sum() == round(0.1 * value.numel())
        assert torch.equal(changed, masks[name])
        momentum = optimizer.state[network.get_parameter(name)]["momentum_buffer"]
        assert torch.equal(momentum == 0, masks[name])
    assert same(method.stable.network.state_dict(), before)
    again = draw_masks(method.weights_to_forget, 0.1, 3, 0)
    assert same(again, masks)
    assert not same(draw_masks(method.weights_to_forget, 0.1, 3, 1), masks)
    share = draw_masks(method.weights_to_forget, 0.1, 3, 0, exact=False)
    assert any(m.sum() != round(0.1 * m.numel()) for m in share.values())


def test_forgotten_entries_are_fresh_draws_of_the_initialiser():
    network = preact()
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    method = fomo(network, 7, rate=1.0)
    method.start_epoch(1)
    for name, w in method.weights_to_forget.items():
        bound = 1 / np.sqrt(w[0].numel())
        found = w.detach().flatten().numpy()
        assert kstest(found, "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3, name
    first = {n: w.detach().clone() for n, w in method.weights_to_forget.items()}
    method.start_epoch(4)
    assert not any(torch.equal(first[n], w) for n, w in method.weights_to_forget.items())


@pytest.mark.parametrize("init", ["zero", "rewind", "stable"])
def test_other_values_for_forgotten_entries(init):
    network = preact()
    method = fomo(network, rate=1.0, init=init)
    method.start_epoch(1)
    rewound = preact(3).state_dict()
    for name, w in method.weights_to_forget.items():
        expected = {"zero": torch.zeros_like(w), "rewind": rewound[name],
                    "stable": method.stable.network.state_dict()[name]}[init]  # fmt: skip
        assert torch.equal(w.detach(), expected)


def test_magnitude_and_snip_take_the_lowest():
    scores = {"a": torch.tensor([3.0, 1.0, 2.0, 0.0])}
    assert lowest(scores, 0.5)["a"].tolist() == [False, True, False, True]
    network, data = make_mlp().float(), make_images(10)
    saliency = snip(network, data, batch_size=3)
    loss = F.cross_entropy(network(data.pixels.float()), data.labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    for (name, p), g in zip(network.named_parameters(), gradients, strict=True):
        expected = g.abs() * p.detach().abs()
        torch.testing.assert_close(saliency[name], expected, rtol=1e-4, atol=1e-7)
    for select in ("magnitude", "snip"):
        method = fomo(preact(), select=select, data=images())
        before = copy.deepcopy(method.network.state_dict())
        method.start_epoch(1)
        w = method.weights_to_forget["classifier.weight"]
        assert (w != before["classifier.weight"]).sum() == round(0.1 * w.numel())


@pytest.mark.parametrize("mode", ["iter_tail", "phase_end", "iter_all"])
def test_the_stable_network_moves_when_it_should(mode):
    network = preact()
    method = fomo(network, 5, consolidate=mode, ema_decay=0.5, rate=0.5)
    moved = {}
    original, state = method.end_epoch, {}

    def spy(epoch):
        value = method.stable.network.layer3[0].conv1.weight.clone()
        before_end = state.get("last")
        moved[epoch] = before_end is not None and not torch.equal(before_end, value)
        result = original(epoch)
        moved[epoch] |= not torch.equal(value, method.stable.network.layer3[0].conv1.weight)
        state["last"] = method.stable.network.layer3[0].conv1.weight.clone()
        return result

    method.end_epoch = spy
    metrics = train(method, images(), epochs=5)
    # epoch 1 makes the copy; relearning is 1 and 2, the end of the cycle 3, epoch 4 is the rest
    expected = {"iter_tail": [3, 4], "phase_end": [3], "iter_all": [2, 3, 4]}[mode]
    assert [e for e in (2, 3, 4) if moved[e]] == expected
    assert [m["phase"] for m in metrics] == ["learn", "relearn", "relearn", "consolidate",
                                             "consolidate"]  # fmt: skip
    assert metrics[1]["consistency"] > 0
    assert metrics[3]["consistency"] == 0
    assert "test_stable_target_accuracy" in metrics[1]
    assert "test_stable_target_accuracy" not in metrics[0]


def test_the_consistency_is_added_to_the_objective():
    network = preact()
    method = fomo(network, cr_on="both", **{"lambda": 2.0})
    method.start_epoch(1)
    batch = next(images(6).batches(6))
    x = Madry().adversary(network, ATTACK, batch, Noise(0, batch.index, 1, Purpose.TRAINING_ATTACK))
    twin = copy.deepcopy(network).train()
    loss, logits = method.loss(batch, Step(1, 1.0, 0, 0))
    stable = method.stable.network
    assert not stable.training
    terms = [divergence(stable(v), twin(v)).mean() for v in (x, batch.x)]
    expected = F.cross_entropy(logits, batch.y) + 2 * sum(terms)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    method.backward(loss)
    assert all(p.grad is None for p in stable.parameters())


def test_forgetting_shifts_neither_order_nor_noise():
    """The losses of the learning phase are those of adversarial training."""
    data = images()
    a = train(adversarial(preact()), data, epochs=3)
    b = train(fomo(preact(), 3, 1, 1), data, epochs=3)
    assert a[0]["train_loss"] == b[0]["train_loss"]
    assert a[1]["train_loss"] != b[1]["train_loss"]


# CURE


def cure(network, **options):
    return Cure(network, Setup(attack=ATTACK, epochs=2), CureOptions(**options))


def one_step(method, batch, number=0):
    optimizer = SGD.build([p for p in method.network.parameters() if p.requires_grad])
    method.attach(optimizer)
    method.start_epoch(0)
    method.network.train()
    step = Step(0, 0.0, number, 0)
    loss, _ = method.loss(batch, step)
    method.backward(loss)
    gradients = {n: p.grad.clone() for n, p in method.network.named_parameters()}
    optimizer.step()
    method.after_step(step)
    return loss, gradients, optimizer


def test_nothing_conserved_and_nothing_revised_is_trades():
    batch = next(images(10).batches(10))
    ours, other = preact(), preact()
    _, gradients, _ = one_step(cure(ours, percentile=0, gamma=0.0, trades_beta=3.0), batch)
    trades = adversarial(other, objective="trades", trades_beta=3.0)
    other.train()
    loss, _ = trades.loss(batch, Step(0, 0.0, 0, 0))
    loss.backward()
    for name, p in other.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-5, atol=1e-7)
    _, plain, _ = one_step(cure(preact(), cure_variant="none"), batch)
    _, none_masked, _ = one_step(cure(preact(), percentile=0), batch)
    assert same(plain, none_masked)  # bit for bit


def test_masks_conserve_the_percentile_of_every_tensor():
    batch = next(images(10).batches(10))
    _, full, _ = one_step(cure(preact(), percentile=0), batch)
    method = cure(preact(), percentile=30)
    _, gradients, _ = one_step(method, batch)
    for name, g in gradients.items():
        if name.startswith("classifier"):
            assert torch.equal(g, full[name])
            continue
        conserved = (~method._masks[name]).float().mean().item()
        assert abs(conserved - 0.3) <= 1 / g.numel() + 1e-6, name
        assert (g[~method._masks[name]] == 0).all()
        assert torch.equal(g[method._masks[name]], full[name][method._masks[name]])
    _, none, _ = one_step(cure(preact(), percentile=100), batch)
    assert {n for n, g in none.items() if g.any()} == {"classifier.weight", "classifier.bias"}


def test_percentile_masks():
    scores = {"a": torch.arange(10.0), "b": torch.full((4,), 100.0), "c": torch.zeros(5)}
    by_layer = update_masks(scores, 30, "layer")
    assert by_layer["a"].tolist() == [False] * 3 + [True] * 7
    assert by_layer["b"].all() and by_layer["c"].all()  # ties are updated
    everywhere = update_masks(scores, 50, "global")
    assert everywhere["b"].all()
    assert not everywhere["c"].any()
    with pytest.raises(InputError, match="allowed: global, layer"):
        update_masks(scores, 50, "stage")


@pytest.mark.parametrize(("alpha", "which"), [(1.0, "clean"), (0.0, "adversarial")])
def test_alpha_ranks_by_one_gradient_alone(alpha, which):
    batch = next(images(10).batches(10))
    network = preact()
    method = cure(network, alpha=alpha)
    method.start_epoch(0)
    network.train()
    loss, _ = method.loss(batch, Step(0, 0.0, 0, 0))
    scores = method._scores(loss)
    twin = preact()
    x = method.attack(
        copy.deepcopy(twin).eval(),
        batch.x,
        batch.y,
        Noise(0, batch.index, 0, Purpose.TRAINING_ATTACK),
    )
    twin.train()
    clean, logits = twin(batch.x), twin(x)
    chosen = F.cross_entropy(clean if which == "clean" else logits, batch.y)
    named = dict(twin.named_parameters())
    for name, g in zip(
        scores, torch.autograd.grad(chosen, [named[n] for n in scores]), strict=True
    ):
        torch.testing.assert_close(scores[name], g.abs(), rtol=1e-3, atol=1e-6)


def test_strict_conservation_restores_weights_and_momenta():
    batch = next(images(10).batches(10))
    for strict in (True, False):
        network = preact()
        before = copy.deepcopy(network.state_dict())
        method = cure(network, conserve="strict" if strict else "gradient")
        _, _, optimizer = one_step(method, batch)
        held = [torch.equal(p[~method._masks[n]], before[n][~method._masks[n]])
                for n, p in method.masked.items()]  # fmt: skip
        assert all(held) if strict else not all(held)  # weight decay moves zeroed entries
        trace = method.metrics(None)
        changed, updated = (np.array(list(trace[k].values())) for k in ("changed", "updated"))
        assert (changed <= updated + 1e-6).all() if strict else changed.mean() > 0.9
        if strict:
            for n, p in method.masked.items():
                momentum = optimizer.state[p]["momentum_buffer"]
                assert (momentum[~method._masks[n]] == 0).all()


def test_the_revision_model_follows_at_its_rate_and_is_never_shared():
    data = images()
    still = cure(preact(), ema_update_freq=0.0)
    train(still, data, epochs=1)
    start = preact().state_dict()
    moved = still.revision.network.state_dict()
    assert all(torch.equal(moved[n], start[n]) for n, _ in preact().named_parameters())
    close = cure(preact(), ema_update_freq=1.0, ema_alpha=0.0)
    train(close, data, epochs=1)
    weights = dict(close.network.named_parameters())
    for name, p in close.revision.network.named_parameters():
        assert torch.equal(p, weights[name])
        assert p.data_ptr() != weights[name].data_ptr()
        assert p.grad is None
    sometimes = cure(preact(), ema_update_freq=0.5)
    count = 0
    update = sometimes.revision.update

    def counted(share):
        nonlocal count
        count += 1
        update(share)

    sometimes.revision.update = counted
    train(sometimes, images(200), epochs=4)
    assert 10 <= count <= 30  # 40 steps at one half


def test_the_warm_up_of_the_revision_is_one_over_t_plus_one():
    method = cure(preact(), ema_update_freq=1.0)
    shares = []
    method.revision.update = shares.append
    for number in range(3):
        method.after_step(Step(0, 0.0, number, 0))
    assert shares == pytest.approx([1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_masks_what_it_says(variant):
    batch = next(images(10).batches(10))
    method = cure(preact(), cure_variant=variant)
    loss, gradients, _ = one_step(method, batch)
    assert loss.isfinite()
    if variant == "none":
        assert not method.masked
    elif "soft" in variant:
        assert all("conv1" in n and n.startswith("layer") for n in method.masked)
    else:
        assert not any(n.startswith("classifier") for n in method.masked)
        assert any("bn" in n for n in method.masked)
        assert not any(
            "bn" in n for n in cure(preact(), cure_variant=variant, mask_bn=False).masked
        )
    assert all(g.isfinite().all() for g in gradients.values())


def test_cure_eff_trains_naturally_first():
    data = images()
    method = cure(preact(), epochs_warmup=1)
    metrics = train(method, data, epochs=2)
    assert "test_revision_target_accuracy" not in metrics[0]
    assert "test_revision_target_accuracy" in metrics[1]
    assert metrics[0]["updated"]["layer1.0.conv1.weight"] == 0
    assert metrics[1]["updated"]["layer1.0.conv1.weight"] == pytest.approx(0.7, abs=0.05)


def test_the_teacher_keeps_its_own_statistics():
    data = images()
    method = cure(preact(), ema_update_freq=0.0)
    start = method.revision.network.bn.running_mean.clone()
    train(method, data, epochs=1)
    assert not torch.equal(method.revision.network.bn.running_mean, start)
    running = cure(preact(), ema_update_freq=0.0, rev_bn="running")
    train(running, data, epochs=1)
    assert torch.equal(running.revision.network.bn.running_mean, start)


def test_only_chosen_stages_train():
    network = preact()
    before = copy.deepcopy(network.state_dict())
    train_only(network, FreezeOptions(("2", "3")), seed=1)
    drawn = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert drawn == {n for n in before if n.startswith(("layer2", "layer3"))
                     and ("conv" in n or "shortcut" in n)}  # fmt: skip
    w = network.layer2[0].conv1.weight.detach()
    assert w.abs().max() <= np.sqrt(6 / (w.shape[0] * 9))
    before = copy.deepcopy(network.state_dict())
    train(adversarial(network), images(), epochs=1)
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, _ in network.named_parameters()
                     if n.startswith(("layer2", "layer3", "conv1"))}  # fmt: skip
    train_only(network, FreezeOptions((CLASSIFIER,), freeze_stem=True))
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
    with pytest.raises(InputError, match="allowed: 1, 2, 3, 4, classifier, stem"):
        train_only(network, FreezeOptions(("5",)))


# the loop


def test_the_best_network_on_validation_is_kept(tmp_path):
    data, validation = images(60).split(0.3)
    method = adversarial(preact(), average="ema", average_decay=0.9)
    files = RunFiles(tmp_path, "run", {})
    lines = train(
        method, data, epochs=4, files=files, validation=validation, keep_epochs=(1, 2, 3, 4)
    )
    for prefix, stem in (("", ""), ("average_", "_average")):
        accuracies = [line[f"val_{prefix}target_accuracy"] for line in lines]
        first = int(np.argmax(accuracies)) + 1
        best = load_checkpoint(tmp_path / f"run{stem}_best.ckpt")
        assert best.recipe["epoch"] == first
        assert same(best.tensors, load_checkpoint(tmp_path / f"run{stem}_{first}.ckpt").tensors)


def test_a_split_is_fixed_and_leaves_no_example_out():
    data = images(50)
    rest, held = data.split(0.1)
    assert (len(rest), len(held)) == (45, 5)
    assert sorted([*rest.index.tolist(), *held.index.tolist()]) == list(range(50))
    assert data.split(0.1)[1].sha256 == held.sha256
    with pytest.raises(InputError, match="between 0 and 1"):
        data.split(1.5)


def test_equal_attacks_are_run_once_and_leave_no_trace(monkeypatch):
    network = make_conv_bn()
    network.train()
    before = copy.deepcopy(network.state_dict())
    calls = []
    original = PGD.perturb
    monkeypatch.setattr(PGD, "perturb", lambda *a: calls.append(1) or original(*a))
    attacks = {"target": ATTACK, "scheduled": PGD(eps=0.1, iterations=2), "zero": ATTACK.at(0.0),
               "none": None}  # fmt: skip
    scores = scores_of_networks(
        {"": network.float()}, make_images(9), attacks, batch_size=9, seed=0, device="cpu"
    )
    assert len(calls) == 1
    assert scores["target"] is scores["scheduled"]
    assert scores["zero"] is scores["clean"]
    assert "none" not in scores
    assert network.training
    assert all(torch.equal(v, before[k].to(v)) for k, v in network.state_dict().items())


RUN = ("--dataset", "mnist5k", "--model_type", "preact", "--width", "1", "--subset_size", "60",
       "--eval_size", "20", "--batch_size", "20", "--out_folder", "runs",
       "--optim", "name=sgd,lr=0.05,momentum=0.9", "--lr_schedule", "None",
       "--attack", "name=pgd,threshold=0.1,iter_num=2,order=-1",
       "--eval_attack", "None")  # fmt: skip


def test_the_commands_write_every_network(run_command, tmp_path):
    run_command("train_fomo", *RUN, "--epoch_num", 4, "--fomo_warmup", 1, "--fomo_relearn", 1,
                "--model_name", "fomo", "--epoch_ckpts", "3", "--fomo_lr", "hold:0.01",
                check=True)  # fmt: skip
    written = {p.name for p in (tmp_path / "runs").iterdir()}
    assert written == {
        "fomo.ckpt", "fomo_stable.ckpt", "fomo_best.ckpt", "fomo_stable_best.ckpt", "fomo.jsonl",
        "fomo_init.ckpt", "fomo_3.ckpt", "fomo_stable_3.ckpt", "fomo_cycle1_before.ckpt",
        "fomo_cycle1_after.ckpt", "fomo_cycle1_relearnt.ckpt",
    }  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "runs/fomo.jsonl").read_text().splitlines()]
    assert [x["lr"] for x in lines] == [0.05, 0.01, 0.01, 0.01]
    run_command("train_cure", *RUN, "--epoch_num", 1, "--model_name", "cure", check=True)
    natural = load_checkpoint(tmp_path / "runs/cure_natural.ckpt")
    first = load_checkpoint(tmp_path / "runs/cure_init.ckpt")
    assert same(natural.tensors, first.tensors)
    assert (tmp_path / "runs/cure_revision.ckpt").exists()
    done = run_command("train_cure", *RUN, "--epoch_num", 1, "--model_name", "cure", check=True)
    assert done.stdout.count("already trained") == 2
    run_command("train_cure", *RUN, "--epoch_num", 1, "--model_name", "freeze", "--cure_variant",
                "freeze", "--blocks", "2,3", check=True)  # fmt: skip
    steps = [load_checkpoint(tmp_path / f"runs/{n}.ckpt").tensors["layer4.0.conv1.weight"]
             for n in ("freeze_natural_init", "freeze_natural", "freeze")]  # fmt: skip
    assert not torch.equal(steps[0], steps[1])  # natural training trains every stage
    assert torch.equal(steps[1], steps[2])
    run_command("train_normal", *RUN, "--epoch_num", 1, "--model_name", "t", "--objective",
                "trades", "--average", "ema", "--awp_gamma", "0.01", check=True)  # fmt: skip
    assert (tmp_path / "runs/t_average.ckpt").exists()


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        ("train_fomo", ("--fomo_rate", "3.5"), "must lie in 0..1"),
        ("train_fomo", ("--fomo_scope", "middle"), "allowed: all, first, last_stage, later"),
        ("train_fomo", ("--fomo_init", "old"), "allowed: fresh, rewind, stable, zero"),
        ("train_fomo", ("--fomo_lr", "hold"), "hold:RATE"),
        ("train_fomo", ("--fomo_mask", "row"), "global, tensor"),
        ("train_fomo", ("--epoch_num", "4"), "no cycle of FOMO fits"),
        ("train_fomo", ("--fomo_warmup", "0", "--val_fraction", "2"), "between 0 and 1"),
        ("train_fomo", ("--fomo_warmup", "0", "--objective", "mart"), "allowed: at, trades"),
        ("train_fomo", ("--fomo_warmup", "0", "--attack", "None"), "need --attack"),
        ("train_cure", ("--percentile", "130"), "must lie in 0..100"),
        ("train_cure", ("--cure_variant", "rgp"), "allowed: code_rgp"),
        ("train_cure", ("--cure_variant", "freeze"), "--blocks"),
        ("train_cure", ("--cure_variant", "freeze", "--blocks", "7"), "allowed: 1, 2, 3, 4"),
        ("train_cure", ("--natural", "no.ckpt"), "no such checkpoint"),
        ("train_cure", ("--epochs_warmup", "300"), "0..200"),
        ("train_cure", ("--attack", "name=fgsm,threshold=0.1"), "needs name=pgd"),
        ("train_cure", ("--rgp_scope", "stage"), "allowed: global, layer"),
        ("train_normal", ("--average", "median"), "allowed: ema, swa"),
        ("train_normal", ("--objective", "trades", "--attack", "None"), "need --attack"),
        ("train_normal", ("--awp_gamma", "-1"), "must not be negative"),
    ],
)
def test_bad_input_is_one_line_and_nothing_on_disk(command, line, expected, refuse):
    line = dict(zip(line[::2], line[1::2], strict=True))
    given = {**dict(zip(RUN[::2], RUN[1::2], strict=True)), **line}
    assert expected in refuse(command, *(word for pair in given.items() for word in pair))


def test_parse_of_the_kl_attack():
    attack = parse_attack("name=kl,threshold=8,step_size=2,iter_num=10,order=-1")
    assert attack == away_from_clean(PGD(eps=8 / 255, step_size=2 / 255, iterations=10))
    assert attack.loss == "kl"
    assert not attack.keep_best
    assert attack.at(4 / 255).step_size == pytest.approx(1 / 255)


def test_the_kl_attack_starts_beside_the_clean_image():
    """With a step of nearly nothing, the start is what is left: x + 0.001 N(0, I)."""
    x = torch.full((3, 1, 6, 6), 0.5)
    attack = PGD(eps=0.1, iterations=1, step_size=1e-9, loss="kl", keep_best=False)
    noise = Noise(0, torch.arange(3))
    found = attack(make_mlp().float(), x, torch.zeros(3, dtype=torch.long), noise)
    torch.testing.assert_close(found, x + 1e-3 * noise.normal(x), rtol=0, atol=1e-7)


def test_trades_refuses_an_attack_on_another_loss():
    with pytest.raises(InputError, match="leave loss_type out"):
        Trades().inner(PGD(eps=0.1, iterations=1, loss="cw"))
