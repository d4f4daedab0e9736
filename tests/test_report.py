"""The report: what its verdict and warnings say, that names cannot break it, that it runs."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import xarray as xr

from ridgeline.analysis.frequency.filters import filter_spectrum
from ridgeline.analysis.page.methods import citations, methods
from ridgeline.analysis.page.pictures import pictures
from ridgeline.analysis.page.plots import plots
from ridgeline.analysis.page.render import page
from ridgeline.analysis.page.sources import Source, read_sources
from ridgeline.analysis.page.verdict import COLUMNS, verdict
from ridgeline.landscape.result import save_result, stamp
from ridgeline.train.attacks import parse_attack
from ridgeline.train.files.checkpoint import save_checkpoint
from ridgeline.train.files.recipe import called
from tests.commands import call

PGD = "PGD(eps=0.1, order=inf, iterations=20)"
HOSTILE = "</script><b onclick=x>$a_{&\"'"
_VOID = {"meta", "link", "img", "br", "input", "wbr"}


class Read(HTMLParser):
    """The elements of a page; complains about tags that are not closed in their order."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "script" not in self._open and "style" not in self._open:
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [a[name] for t, a in self.found if t == tag and name in a]


def read(text: str) -> Read:
    """A page that is whole and loads nothing."""
    found = Read(text)
    every = [a[n] for _, a in found.found for n in ("src", "href", "data", "action") if n in a]
    assert every and all(link.startswith(("data:", "#")) for link in every)
    assert not found.attributes("script", "src")
    assert not re.search(r"@import|url\((?!data:)", text.partition("</style>")[0])
    assert "default-src 'none'" in found.attributes("meta", "content")[1]
    return found


def checkpoint(folder, name="a", seed=0):
    """A file with one tensor and the recipe of a run on ten images."""
    model = {"model_type": "lenet", "width": 1}
    with called("train_normal", {"attack": "name=pgd,eps=0.1,step_size=0.02"}, "."):
        save_checkpoint(
            folder / f"{name}.ckpt", {"w": torch.full((2,), float(seed))},
            {"model": model, "method": "trades", "data": {"dataset": "d.npz", "examples": 10},
             "attack": PGD, "epochs": 3, "seed": seed},
        )  # fmt: skip
    return str(folder / f"{name}.ckpt")


def accuracy(folder, name, sha, value, images=50, attack=PGD, **data):
    ds = xr.Dataset(
        {"accuracy": ("condition", [0.9, value]), "accuracy_low": ("condition", [0.8, value - 0.1]),
         "accuracy_high": ("condition", [0.95, value + 0.1]), "loss": ("condition", [0.1, 1.0]),
         "loss_se": ("condition", [0.01, 0.1]), "nrr": ("condition", [np.nan, 0.5])},
        {"condition": ["clean", "adversarial"], "eps": ("condition", [0.0, 0.1])},
    )  # fmt: skip
    recipe = {"command": "test_ensemble", "checkpoint": [sha], "attack": attack,
              "data": {"dataset": "d.npz", "examples": images, "sha256": "00", **data}}  # fmt: skip
    with called("test_ensemble", {"model2load": ["a,b.ckpt"], "attack": "name=pgd"}, "."):
        save_result(stamp(ds, "robustness", recipe), folder / f"{name}.nc")
    return str(folder / f"{name}.nc")


def curvature(folder, name, sha, share=1.0, converged=True):
    dims = ("eps", "block", "rank")
    ds = xr.Dataset(
        {"eigenvalue": (dims, [[[3.0, -1.0]]]), "residual": (dims, [[[1e-3, 1e-3]]]),
         "converged": (dims, [[[converged, True]]]), "reason": (dims, [[["too few", "ok"]]]),
         "share_regular": (dims[:2], [[share]]), "stationarity": (dims[:2], [[0.01]]),
         "trace": (dims[:2], [[12.0]]), "trace_se": (dims[:2], [[0.5]]),
         "trace_estimator": (dims[:2], [["hutchinson"]]), "parameters": (dims[:2], [[2]])},
        {"eps": [0.1], "block": ["all"], "rank": [1, 2]},
    )  # fmt: skip
    recipe = {"command": "calc_hessian", "checkpoint": sha, "attack": PGD, "adversary": "total",
              "data": {"dataset": "d.npz", "examples": 20, "sha256": "11"}}  # fmt: skip
    save_result(stamp(ds, "hessian", recipe), folder / f"{name}.nc")
    return str(folder / f"{name}.nc")


def titled(row):
    return dict(zip((c.title for c in COLUMNS), row, strict=True))


def test_the_verdict_finds_numbers_by_the_tensors_and_names_what_is_missing(tmp_path):
    files = [checkpoint(tmp_path, "a"), checkpoint(tmp_path, "b", seed=1)]
    subjects, _ = read_sources(files, [])
    sha = subjects[0].sha256
    results = [accuracy(tmp_path, "few", sha, 0.5, images=50),
               accuracy(tmp_path, "many", sha, 0.25, images=500),
               accuracy(tmp_path, "aa", sha, 0.125, attack="AutoAttack(eps=0.1, order=inf)"),
               accuracy(tmp_path, "other", "ff", 0.75), curvature(tmp_path, "h", sha)]  # fmt: skip
    _, sources = read_sources([], results)
    first, second = map(titled, verdict(subjects, sources))
    assert {k: c.value for k, (c, _) in first.items() if c} == {
        "clean": 0.9, "PGD": 0.25, "AutoAttack": 0.125, "λ_max [nat]": 3.0,
        "trace [nat]": 12.0,
    }  # fmt: skip
    assert first["PGD"][0].text == "25.0 % [15.0, 35.0]"
    assert first["PGD"][0].note == "500 images, PGD-20, ε = 0.1"
    assert first["trace [nat]"][0].text == "12 ± 0.5"
    assert "residual 1.0e-03" in first["λ_max [nat]"][0].note
    fills = {k: fill.split() for k, (cell, fill) in second.items()}
    assert all(cell is None for cell, _ in second.values())
    assert fills["PGD"][:4] == ["ridgeline", "test_ensemble", "--model2load", files[1]]
    told = {k: line[line.index("--attack") + 1] for k, line in fills.items() if "--attack" in line}
    assert told["PGD"] == "name=pgd,eps=0.1,step_size=0.02"  # the attack of training
    assert parse_attack(told["AutoAttack"]).eps == 0.1
    assert all("--out_file" in fills[k] for k in ("clean", "PGD", "AutoAttack"))  # or no result
    assert fills["barrier"][3] == f"{files[0]},{files[1]}"
    assert first["barrier"][1].split() == fills["barrier"]  # one command for all rows
    commands = {line[1] for line in fills.values()}
    assert commands == {"test_ensemble", "calc_hessian", "compare_checkpoints",
                        "analyze_overfitting"}  # fmt: skip


def test_every_reason_for_doubt_is_a_warning(tmp_path):
    files = [checkpoint(tmp_path, "a"), checkpoint(tmp_path, "b", seed=1)]
    subjects, _ = read_sources(files, [])
    shas = [s.sha256 for s in subjects]
    calm = [accuracy(tmp_path, f"r{i}", sha, 0.5) for i, sha in enumerate(shas)]
    quiet = read(page("t", *read_sources(files, calm)))
    assert "None of the checks found a reason for doubt" in quiet.text
    odd = [accuracy(tmp_path, "r0", shas[0], 0.5, sha256="other"), calm[1],
           curvature(tmp_path, "h", shas[0], share=0.5, converged=False),
           accuracy(tmp_path, "x", "ff", 0.5)]  # fmt: skip
    cells = xr.Dataset({"loss": ("x1", [0.0, np.nan, 1.0]), "done": ("x1", [True, True, False])})
    scan = stamp(cells.expand_dims(eps=[0.0]).transpose("x1", "eps").transpose("eps", "x1")
                 .assign_coords(x1=[-1.0, 0.0, 1.0]), "scan", {"checkpoint": shas[0]})  # fmt: skip
    scan["loss_se"] = scan["loss"] * 0
    save_result(scan, tmp_path / "s.nc")
    line = {"epoch": 1, "train_loss": 2.3, "train_accuracy": 0.1, "constant_classifier": True}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    odd += [str(tmp_path / "s.nc"), str(tmp_path / "m.jsonl")]
    warned = read(page("t", *read_sources(files, odd))).text
    for line in (
        "Column clean: its cells cannot be compared, they differ in choice of images.",
        "h: 1 of 2 eigenvalues did not converge (too few).", "h: share_regular is 0.50",
        "About other checkpoints than the verdict's: x.", "s: 2 of 3 cells are computed.",
        "s: 1 of 2 losses are not finite.", "s: clipped: 1 losses of 0 or less",
        "m: at the end of training every image gets the same class.",
    ):  # fmt: skip
        assert line in warned, line


def test_no_name_breaks_the_page(tmp_path):
    files = [checkpoint(tmp_path, "a")]
    subjects, _ = read_sources(files, [])
    made = accuracy(tmp_path, "r", subjects[0].sha256, 0.5, dataset=HOSTILE)
    _, (source,) = read_sources([], [made])
    renamed = Source(HOSTILE, source.path, source.sha256, source.result)
    text = page(HOSTILE, subjects, [renamed])
    found = read(text)
    assert HOSTILE in found.text
    assert not any("onclick" in attrs for _, attrs in found.found)
    held = re.search(r'id="plots">(.*?)</script>', text, flags=re.S)[1]
    (trace,) = json.loads(held)[0]["data"]
    assert trace["name"].startswith("&lt;/script&gt;&lt;b")  # plotly obeys some tags
    assert "ridgeline test_ensemble --attack name=pgd --model2load 'a\\,b.ckpt'" in found.text


def test_data_links_hold_the_numbers(tmp_path):
    made = curvature(tmp_path, "h", "00")
    links = {a["download"]: a["href"] for t, a in
             read(page("t", *read_sources([], [made]))).found if "download" in a}  # fmt: skip
    text = base64.b64decode(links["h_eps_block_rank.csv"].partition(",")[2]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(r["eigenvalue"]) for r in rows] == [3.0, -1.0]
    assert [r["rank"] for r in rows] == ["1", "2"]


def test_methods_say_what_recipes_hold(tmp_path):
    subjects, _ = read_sources([checkpoint(tmp_path)], [])
    _, sources = read_sources([], [accuracy(tmp_path, "r", subjects[0].sha256, 0.5)])
    first, second, *_ = methods(subjects, sources)
    assert first == ("Network a (lenet, width 1) was trained by TRADES on 10 images of d.npz "
                     "against PGD-20 (ε = 0.1, l_inf) for 3 epochs (seed 0).")  # fmt: skip
    assert second == ("Accuracy, with 95 % Wilson intervals, was computed on 50 images of d.npz "
                      "under PGD-20 (ε = 0.1, l_inf) (r).")  # fmt: skip
    found = citations(subjects, sources)
    assert list(found) == ["madry2018", "zhang2019"]
    for key, entry in found.items():
        assert entry.startswith(f"@inproceedings{{{key},") and entry.count("{") == entry.count("}")


def test_bad_input_is_one_line(tmp_path, refuse, monkeypatch):
    assert "must end in .html" in refuse("report", "--result", "a.nc", "--out_file", "a.pdf")
    assert "no such result file" in refuse("report", "--result", "a.nc", "--out_file", "a.html")
    assert "required: --result" in refuse("report")


def test_a_direction_is_no_network(tmp_path):
    save_checkpoint(tmp_path / "v.ckpt", {"w": torch.ones(2)}, {"kind": "direction"})
    accuracy(tmp_path, "r", "00", 0.5)
    done = call("report --model2load v.ckpt --result r.nc", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "v.ckpt is a direction in weight space, not a network" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_kind_without_section_and_a_file_twice_are_refused(tmp_path):
    save_result(stamp(xr.Dataset({"a": ("x", [1.0])}), "strange", {}), tmp_path / "s.nc")
    for files, said in (("s.nc", "unknown kind of result in s.nc"), ("s.nc,s.nc", "named twice")):
        done = call(f"report --result {files}", tmp_path)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["s.nc"]


#: scrolls to every plot, sorts by the second column with the keyboard's key, prints, notes all
PROBE = """<script>
const said = []; window.onerror = (m) => { said.push(String(m)); };
console.error = (...m) => { said.push(m.join(" ")); };
document.addEventListener("securitypolicyviolation", (e) => said.push(e.violatedDirective));
</script>"""
FOLLOW = """<script>
(async function () {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const box = (node) => node.getBoundingClientRect();
  const all = (what) => Array.from(document.querySelectorAll(what));
  for (const node of all(".plot")) {
    node.scrollIntoView();
    for (let n = 0; n < 100 && !node.querySelector(".svg-container"); n += 1) { await wait(50); }
    node.dataset.seen = node.querySelector(".svg-container") ? "1" : "0";
  }
  const button = all("table.sortable th button")[2];
  button.focus();
  const focus = document.activeElement === button;
  const names = () => Array.from(all("#main table")[0].tBodies[0].rows)
    .map((row) => row.cells[0].textContent);
  button.click(); const up = names(); button.click(); const down = names();
  const seen = all(".plot").map((n) => n.dataset.seen);
  const key = all(".legend button")[0], bars = all(".plot")[0];
  key.click(); const hidden = [bars.data[0].visible, key.getAttribute("aria-pressed")];
  key.click(); hidden.push(bars.data[0].visible);
  const beyond = all(".legend li, .block .command span, figcaption").filter(
    (n) => n.getClientRects().length && box(n).right > window.innerWidth).length;
  const sheet = document.documentElement;
  const wide = sheet.scrollWidth > window.innerWidth;
  const size = (node) => [box(node).width, box(node).height];
  const images = all("figure img").map(size);
  const sizes = () => all(".plot .svg-container").map((n) => size(n).map(Math.round));
  const screen = sizes();
  window.dispatchEvent(new Event("beforeprint")); await wait(500);
  const paper = sizes();
  const closed = () => all("details").filter((d) => !d.open).length;
  const shut = closed();
  window.dispatchEvent(new Event("afterprint")); await wait(500);
  const back = sizes(), again = closed();
  document.body.innerHTML = ""; document.body.dataset.probe = JSON.stringify(
    { said, seen, focus, up, down, wide, images, screen, paper, shut, back, again, hidden, beyond,
      inner: window.innerWidth });
}());
</script>"""
#: a phone: a page in a window that browsers without a screen do not make so narrow
PHONE = """<!DOCTYPE html><iframe width="390" height="844" srcdoc="{page}"></iframe><script>
setInterval(() => {{ const found = document.querySelector("iframe").contentDocument.body;
  if (found && found.dataset.probe) {{ document.body.dataset.probe = found.dataset.probe; }}
}}, 50);
</script>"""
BROWSER = ["chromium", "--headless=new", "--no-sandbox", "--use-angle=swiftshader",
           "--enable-unsafe-swiftshader", "--virtual-time-budget=60000"]  # fmt: skip
needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def whole_page(folder) -> str:
    """A page with bars, eigenvalues, a surface, its contours, and pictures of two spectra."""
    names = ("c", "a", "b")
    files = [checkpoint(folder, n, seed=i) for i, n in enumerate(names)]
    subjects, _ = read_sources(files, [])
    results = [accuracy(folder, f"r{s.name}", s.sha256, v) for s, v in
               zip(subjects[:2], (0.25, 0.75), strict=True)]  # fmt: skip
    axes = {"eps": [0.1], "x1": [-1.0, 0.0, 1.0], "x2": [0.0, 1.0]}
    ds = xr.Dataset({n: (tuple(axes), np.arange(1.0, 7).reshape(1, 3, 2))
                     for n in ("loss", "loss_se")}, axes)  # fmt: skip
    save_result(stamp(ds, "scan", {"checkpoint": subjects[0].sha256}), folder / "s.nc")
    results += [str(folder / "s.nc"), curvature(folder, "h", subjects[0].sha256)]
    for name in ("f1", "f2"):
        weights = torch.linspace(-1, 1, 64 * 3 * 9).reshape(64, 3, 3, 3)
        spectrum = filter_spectrum({f"layer{n}.weight": weights for n in range(5)})
        save_result(stamp(spectrum, "spectrum", {}), folder / f"{name}.nc")
        results.append(str(folder / f"{name}.nc"))
    return page("t", *read_sources(files, results))


@needs_browser
@pytest.mark.parametrize("width", [1280, 500, 390])
def test_it_runs_in_a_browser(tmp_path, width):
    text = whole_page(tmp_path)
    text = text.replace("<head>", f"<head>{PROBE}", 1).replace("</body>", f"{FOLLOW}</body>")
    if width < 500:
        text = PHONE.format(page=html.escape(text))
    (tmp_path / "page.html").write_text(text)
    done = subprocess.run(
        [*BROWSER, f"--user-data-dir={tmp_path / 'user'}", f"--window-size={width},900",
         "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    probe = re.search(r'<body data-probe="([^"]*)"', done.stdout)
    assert probe, done.stderr[-2000:]
    told = json.loads(html.unescape(probe[1]))
    assert told["said"] == [] and told["inner"] == width
    assert told["seen"] == ["1"] * 4  # bars, eigenvalues, surface, contours
    assert told["focus"] and not told["wide"]
    assert told["up"] == ["c", "a", "b"] and told["down"] == ["a", "c", "b"]  # a dash is last
    # a wide picture gives way to a narrow one on a phone, and fills it
    shown = [w for w, _ in told["images"] if w]
    assert len(told["images"]) == 4 and len(shown) == 2  # shares; filters, wide and narrow; a still
    assert all(0.85 * width < w < width for w in shown) == (width < 640)
    assert all(w < width for w in shown) and told["beyond"] == 0
    assert told["hidden"] == [False, "false", True]  # the legend hides a network and shows it
    # drawn for paper, the surface as its picture, and then as before
    bars, values, surface, contours = told["paper"]
    assert (bars, values, contours) == ([690, 230], [690, 230], [340, 200])
    assert surface == told["screen"][2] and told["back"] == told["screen"]
    assert told["shut"] == 0 < told["again"]  # no command or number is folded away on paper


@needs_browser
def test_on_paper_nothing_is_missing_or_wider_than_the_page(tmp_path):
    """Sees a plot that was drawn for a screen, which paper cuts, and a page of the phone's."""
    (tmp_path / "page.html").write_text(whole_page(tmp_path))
    subprocess.run(
        [*BROWSER, f"--user-data-dir={tmp_path / 'user'}", "--no-pdf-header-footer",
         f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri()],
        capture_output=True, timeout=240, check=True,
    )  # fmt: skip
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type /Page\b(?!s)", data)) <= 12


def test_results_of_a_kind_share_a_picture_or_a_range(tmp_path):
    """Sees spectra in pictures of their own axes, and matrices whose colours differ in meaning."""
    whole_page(tmp_path)
    sources = read_sources([], [str(tmp_path / f"f{n}.nc") for n in (1, 2)])[1]
    found = list(pictures("spectrum", sources))
    assert [p.caption for p in found] == [
        "Share of high frequencies in the filters of every layer: f1, f2.",
        "First filters of every network: f1, f2.",
    ]
    assert [bool(p.narrow) for p in found] == [False, True] and found[1].wide
    for name, value in (("m1", 0.2), ("m2", 0.9)):
        square = (("layer_a", "layer_b"), [[1.0, value], [value, 1.0]])
        names = {"layer_a": ["x", "y"], "layer_b": ["x", "y"]}
        save_result(stamp(xr.Dataset({"cka": square}, names), "cka", {}), tmp_path / f"{name}.nc")
    sources = read_sources([], [str(tmp_path / f"m{n}.nc") for n in (1, 2)])[1]
    assert [(p.data[0]["zmin"], p.data[0]["zmax"]) for p in plots("cka", sources)] == [(0.2, 1)] * 2
    taus = {n: (("loss", "logits", "measure"), np.full((1, 1, 2), v))
            for n, v in (("tau_low", -0.5), ("tau", 0.1), ("tau_high", 0.5))}  # fmt: skip
    names = {"loss": ["clean"], "logits": ["plain"], "measure": ["sam", "trace"]}
    alone = stamp(xr.Dataset(taus, names), "ranking", {})
    made = pictures("ranking", [Source(n, tmp_path / n, "00", alone) for n in ("a", "b")])
    assert [(p.sources, bool(p.link)) for p in made] == [(("a",), True), (("b",), True)]


def test_what_a_closer_look_found_is_on_the_page(tmp_path):
    subjects, _ = read_sources([checkpoint(tmp_path)], [])
    plain = accuracy(tmp_path, "r", subjects[0].sha256, 0.5)
    _, sources = read_sources([], [plain])
    assert list(pictures("robustness", sources)) == []
    warned = [True, False]
    for warning in warned:  # without one the panel of signs made the layout collapse
        signs = (
            sources[0]
            .result.assign(masking_value=("sign", [0.5]), masking_warning=("sign", [warning]))
            .assign_coords(sign=["flat"])
        )
        made = [Source("looked at", tmp_path / "x", "00", signs), *sources]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            (found,) = pictures("robustness", made)
        assert found.sources == ("looked at",) and found.link.startswith("data:image/svg")
