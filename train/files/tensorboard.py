"""The metrics of a run for TensorBoard, in addition to the JSON lines."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ridgeline.models.errors import InputError

_EVENTS = "events.out.tfevents.*"


def check_tensorboard() -> None:
    """Raise InputError, with the command to install it, if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise InputError("--tensorboard True needs a package: pip install 'ridgeline[tensorboard]'")


class Board:
    """The scalars of every epoch in TensorBoard event files of one folder.

    After a kill, events and state may disagree on the last epoch. So the first `update` writes all
    lines again, and no epoch is missing or doubled. This thread writes the events: torch's writer
    thread would print a traceback when the disk is full.
    """

    def __init__(self, folder: Path):
        check_tensorboard()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is not a folder; --tensorboard True writes events there")
        self.folder = folder
        self._writer: Any = None
        self._written = 0

    def update(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the epochs that are not written yet; `lines` are those of all epochs so far."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        try:
            if self._writer is None:
                self._writer = self._begun(Event)
            for line in lines[self._written :]:
                told = [Summary.Value(tag=n, simple_value=v) for n, v in scalars(line)]
                event = Event(
                    wall_time=time.time(), step=line["epoch"], summary=Summary(value=told)
                )
                self._writer.write(event.SerializeToString())
            self._written = len(lines)
            self._writer.flush()
        except OSError as error:
            raise OSError(f"{self.folder} cannot be written ({error})") from None

    def _begun(self, event: Any) -> Any:
        """The writer of a new event file, after the first message `event`."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(_EVENTS):
            path.unlink()
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        writer = RecordWriter(open(self.folder / name, "wb"))  # noqa: SIM115 (closed by `close`)
        begin = event(wall_time=time.time(), file_version="brain.Event:2")
        writer.write(begin.SerializeToString())
        return writer

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def draw_complete(metrics: Path, folder: Path) -> None:
    """Write the scalars of a run that is complete, from its file of metrics."""
    board = Board(folder)
    try:
        board.update([json.loads(line) for line in metrics.read_text().splitlines()])
    finally:
        board.close()


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of the numbers in a line of metrics; numbers in tables are TABLE/NAME.

    >>> list(scalars({"epoch": 2, "lr": 0.1, "norms": {"fc": 3}, "word": "x"}))
    [('lr', 0.1), ('norms/fc', 3.0)]
    """
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", number) for key, number in scalars(value))
        elif isinstance(value, int | float) and name != "epoch":
            yield name, float(value)
