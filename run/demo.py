"""The main job on embedded data: the landscape of plainly and adversarially trained networks."""

from __future__ import annotations

from ridgeline.run.shared.demo_lab import DemoOptions, Lab
from ridgeline.run.shared.launch import launch


def main(*, demo: DemoOptions) -> None:
    """Train LeNets on mnist5k (plain, PGD, PAS), measure their landscapes, draw the overview.

    Everything is kept in --out_folder: run again to finish what was cut off.
    """
    Lab(demo).run()


if __name__ == "__main__":
    launch(main)
