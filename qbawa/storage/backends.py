"""What several processes know together beside the lake: notes in the home."""

from pathlib import Path

from qbawa.storage.files import write_atomically


class Notes:
    """Small named texts, each a file of its own in one folder.

    They say what has been done, so that it is not done again: no store, for without them everything is just done once more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str:
        """The text noted under this name; '' where there is none."""
        try:
            return (self._folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def put(self, name: str, text: str) -> None:
        """Note the text under this name, in place of what stood there."""
        write_atomically(self._folder / name, text)
