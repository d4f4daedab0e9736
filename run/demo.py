"""The main job on embedded data: the landscape of plainly and adversarially trained networks."""

from __future__ import annotations

from pathlib import Path

from ridgeline.run.shared.demo_lab import DemoOptions, Lab
from ridgeline.run.shared.launch import launch
from ridgeline.train.files.recipe import check_folder


def main(*, demo: DemoOptions) -> None:
    """Train LeNets on mnist5k (plain, PGD, PAS), measure their landscapes, draw the overview.

    All results are in --out_folder. Run the command again to finish an interrupted demo.
    """
    check_folder(Path(demo.figure_folder) / "overview.png")  # checked now, written at the end
    Lab(demo).run()


if __name__ == "__main__":
    launch(main)
