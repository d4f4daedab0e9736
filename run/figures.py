"""Draw the figures in a manifest (figures.toml) whose sources have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ridgeline.run.shared.drawing import check_free, outdated
from ridgeline.run.shared.launch import launch
from ridgeline.run.shared.manifest import check_kind, naming, read_manifest


def main(
    *,
    manifest: Annotated[str, "TOML file that lists the figures; paths are relative to it"] = (
        "figures.toml"
    ),
    all: Annotated[bool, "draw figures again that are up to date"] = False,
    overwrite: Annotated[bool, "replace files that are not figures of Ridgeline"] = False,
) -> None:
    """Each [[figure]] has result and out_file, and may have kind, label, against, view and a look.

    The keys are the options of `plot`. At the top, style, width, font_size and colors apply to all
    figures. All entries are read and drawn before any file is written. Nothing is computed again.
    """
    import matplotlib.pyplot as plt

    entries = read_manifest(Path(manifest))
    stale = []
    for name, (drawing, kind) in entries.items():
        with naming(name):
            drawing.check_sources()
            check_free(drawing.targets, overwrite)
            if kind is not None:
                check_kind(drawing, kind)
            if all or outdated(drawing):
                stale.append(name)
    drawn = {}
    for name in stale:
        with naming(name):
            drawn[name] = entries[name][0].figure()
        plt.close(drawn[name][0])  # removed from pyplot's list; it can still be written
    for name, (drawing, _) in entries.items():
        if name not in drawn:
            print(f"up to date: {' and '.join(map(str, drawing.targets))}")
            continue
        figure, notes = drawn[name]
        print("\n".join([*notes, drawing.save(figure)]))


if __name__ == "__main__":
    launch(main)
