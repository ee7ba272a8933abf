"""What others recorded, answered and judged, brought into the lake."""

from qbawa.imports.answers import import_answers
from qbawa.imports.files import FORMATS, ImportReport, detect, detect_or_none, import_file
from qbawa.imports.tables import TableReport
from qbawa.imports.verdicts import import_verdicts, matches_of

__all__ = [
    "FORMATS",
    "ImportReport",
    "TableReport",
    "detect",
    "detect_or_none",
    "import_answers",
    "import_file",
    "import_verdicts",
    "matches_of",
]
