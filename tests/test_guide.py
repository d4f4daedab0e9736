"""Every command and every Python block of README and of the guide runs, made short."""

from __future__ import annotations

import re
import shutil

import pytest

from ridgeline.models import check_model_type, is_external
from ridgeline.train.attacks import parse_attack
from ridgeline.train.schedules import parse_schedule
from tests.commands import ROOT, tiny_set
from tests.conftest import make_images, make_mlp
from tests.documents import blocks, expanded, run_page, shortened

DOCS = ROOT / "docs"
#: commands of the papers take GPU hours; tests/test_papers.py reads them
PAGES = sorted(
    str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "papers.md"
)
#: its Python blocks want a reader's own networks; tests/test_notebook.py gives them some
OWN = ("how_to/notebook.md",)


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    """A folder in which the tour has been taken: every page may start from its files."""
    folder = tmp_path_factory.mktemp("tour")
    tiny_set(folder)
    run_page(DOCS / "tour.md", folder)
    for name in "abc":  # the many checkpoints of the page on sharpness
        shutil.copy(folder / "runs/first/pas.ckpt", folder / f"{name}.ckpt")
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if p not in ("tour.md", *OWN)])
def test_a_page_runs(page, toured):
    run_page(DOCS / page, toured)


def test_the_readme_runs(toured):
    own = {"network": make_mlp().float(), "loader": make_images(8)}
    run_page(ROOT / "README.md", toured, own)
    assert (toured / "eigenvalues.pdf").stat().st_size > 1000


def test_the_readme_is_two_screens_with_one_picture_and_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 70
    assert len(re.findall(r"!\[", text)) == 1
    [shell] = [block for block in blocks(text) if block.language == "sh"]
    assert len(expanded(shell.text)) == 2


@pytest.mark.parametrize("page", ["../README.md", *PAGES, "papers.md"])
def test_no_code_is_left_out(page):
    """Sees an indented block, or one in another language: no test would run it."""
    text = (DOCS / page).read_text()
    for block in blocks(text):
        assert block.language in {"sh", "python", "text"} or (
            block.language == "toml" and block.title
        )
    rest = re.sub(r"^```\w.*?^```$", "", text, flags=re.S | re.M)
    assert "```" not in rest
    assert not re.search(r"(?:\A|\n)\s*\n {4,}\S", rest)


def test_every_spec_of_the_page_of_commands_is_understood():
    found = re.findall(r"^--(\w+) (\S+)", (DOCS / "commands.md").read_text(), re.M)
    readers = {
        "attack": parse_attack,
        "attack_threshold_schedule": lambda s: parse_schedule(s, "it", budget=True),
        "adv_budget_list": lambda s: [float(v) for v in s.split(",")],
        "model_type": lambda s: (
            is_external(s) or s.startswith("timm:") or check_model_type(s, (3, 32, 32))
        ),  # timm need not be installed
    }
    assert {flag for flag, _ in found} == readers.keys()
    for flag, spec in found:
        readers[flag](spec)


def test_every_question_has_command_figure_reading_wrong_one_and_limits():
    for page in (DOCS / "questions").glob("*.md"):
        text = page.read_text()
        assert any(b.language == "sh" for b in blocks(text)), page.name
        assert "![" in text, page.name
        for heading in ("## How to read it", "## What a wrong one looks like", "## Limits"):
            assert heading in text, (page.name, heading)


def test_every_question_and_every_figure_of_the_gallery_has_its_lines():
    text = (DOCS / "gallery.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == [
        (DOCS / f"questions/{name}.md").read_text().splitlines()[0].removeprefix("# ")
        for name in ("sharp", "connected", "masked", "generator", "frequencies", "overfitted")
    ]
    for part in re.split(r"^(?=\*\*)", text, flags=re.M)[1:]:
        assert "![" in part
        assert "```sh" in part or re.search(r"The lines are on \[its\spage\]", part), part


def test_values_of_the_page_on_sharpness_are_those_of_the_benchmark():
    page, benchmark = (
        re.findall(r"^\| `?(\w+)`? \| (.*) \|$", path.read_text(), re.M)
        for path in (DOCS / "sharpness.md", ROOT / "BENCHMARKS.md")
    )
    rows = [(name, cells.split(" | ")) for name, cells in page if " ± " in cells]
    assert len(rows) == 5
    for name, cells in rows:
        [measured] = [c for n, c in benchmark if n == name][:1]  # plain logits come first
        assert {cell.replace("±", "+-") for cell in cells} <= set(measured.split(" | ")), name


def test_pictures_are_small_and_every_one_is_shown():
    shown = set()
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text()):
            path = (page.parent / name).resolve()
            assert path.stat().st_size < 60_000, name
            shown.add(path)
    assert shown == set((DOCS / "figures").glob("*"))


def test_every_page_is_in_the_contents():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted({*PAGES, "papers.md"})


def test_nothing_is_fetched_when_the_guide_is_read():
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert "http" not in text


def test_a_line_is_made_short_and_stays_itself():
    [line] = expanded("for n in 3; do ridgeline a --topk $n --attack name=pgd,iter_num=20; done")
    assert shortened(line, {"subset_size"}) == [
        "a", "--topk", "2", "--attack", "name=pgd,iter_num=1", "--subset_size", "12"
    ]  # fmt: skip
