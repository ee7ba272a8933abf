"""What others recorded, answered and judged, brought into the lake."""

from qbawa.imports.answers import import_answers
from qbawa.imports.tables import TableReport
from qbawa.imports.verdicts import import_verdicts

__all__ = ["TableReport", "import_answers", "import_verdicts"]
