"""What a run prints, in a file for the UI and on the terminal too, without a process for either.

Dagster starts four processes a run that pass a file's new lines on to the terminal; a thread does the same.
"""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._utils import ensure_file, touch_file

LOOK_EVERY_S = 0.1


class TerminalLogs(LocalComputeLogManager):
    """Writes what a run prints to the file at once, so that a crash loses nothing of it, and then to the terminal."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "TerminalLogs":
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        out, err = (
            self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind])
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        )
        with _shown_and_kept(sys.stdout, out), _shown_and_kept(sys.stderr, err):
            yield CapturedLogContext(log_key)
        touch_file(self.complete_artifact_path(log_key))


@contextmanager
def _shown_and_kept(stream: TextIO, path: str) -> Iterator[None]:
    ensure_file(path)
    stream.flush()
    terminal, ended = os.dup(stream.fileno()), threading.Event()
    here = os.path.getsize(path)  # now, not when the thread comes to look
    passing = threading.Thread(target=_pass_on, args=(Path(path), here, terminal, ended), daemon=True)
    passing.start()
    try:
        with redirect_to_file(stream, path):
            yield
    finally:
        ended.set()
        passing.join()
        os.close(terminal)


def _pass_on(path: Path, start: int, terminal: int, ended: threading.Event) -> None:
    """Write what comes into the file, from `start` on, to the terminal too, until `ended` and nothing is left."""
    with path.open("rb") as file:
        file.seek(start)
        last = False
        while not last:
            last = ended.wait(LOOK_EVERY_S)
            while part := file.read(65_536):
                if not _write(terminal, part):
                    return


def _write(terminal: int, part: bytes) -> bool:
    """False where nobody reads any more, such as `| head`."""
    try:
        while part:
            part = part[os.write(terminal, part) :]
    except OSError:
        return False
    return True
