"""Every command and every Python block of README and of the guide runs, made short."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.commands import ROOT, tiny_set
from tests.documents import blocks, expanded, run_page, shortened

DOCS = ROOT / "docs"
#: commands of the papers take GPU hours; tests/test_papers.py reads them
PAGES = sorted(
    str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "papers.md"
)
#: README's Python blocks want a reader's own network; tests/test_notebook.py gives them one
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
    text = (ROOT / "README.md").read_text()
    if blocks(text) and "```sh" in text:
        run_page(ROOT / "README.md", toured)


def test_every_question_has_command_figure_reading_wrong_one_and_limits():
    for page in (DOCS / "questions").glob("*.md"):
        text = page.read_text()
        assert any(b.language == "sh" for b in blocks(text)), page.name
        for heading in ("## How to read it", "## What a wrong one looks like", "## Limits"):
            assert heading in text, (page.name, heading)


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
