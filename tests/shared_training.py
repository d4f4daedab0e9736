"""FILE sync|split PARTS [stop|go]: a small run in float64, for torchrun; see test_ranks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from ridgeline.train.acceleration import Acceleration
from ridgeline.train.attacks import PGD
from ridgeline.train.exchange import leader, leave
from ridgeline.train.files.run_files import RunFiles, read_state
from ridgeline.train.loop import fit
from ridgeline.train.methods import METHODS, Setup
from tests.conftest import make_images
from tests.methods import SGD, staged

if __name__ == "__main__":
    name, batchnorm, parts, *halfway = sys.argv[1:]
    images, network = make_images(23), staged().double()
    network.dropout.p = 0.0
    method = METHODS["adversarial"](network, Setup(images, PGD(eps=0.1, iterations=2), epochs=2))
    how = Acceleration(sync_batchnorm=batchnorm == "sync", accumulate=int(parts))
    files = RunFiles(Path(), Path(name).stem, {"x": 1}) if halfway else None
    if halfway == ["stop"]:  # in the second epoch, of which two steps are in the state
        method.after_step = lambda step: sys.exit(leave()) if step.number == 5 else None
    resume = read_state(files.path(".state")) if halfway == ["go"] else None
    fit(method, images, None, epochs=2, batch_size=8, optimizer=SGD, acceleration=how,
        files=files, resume=resume, state_seconds=0)  # fmt: skip
    if leader():
        torch.save(network.state_dict(), name)
    leave()
