"""OpenTelemetry traces as OTLP JSON: which convention a span follows."""

from collections.abc import Iterator
from typing import Any

from qbawa.ingest.formats import genai, openinference
from qbawa.ingest.formats.otlp_spans import spans
from qbawa.ingest.formats.step_rows import BadRecordError, Origin
from qbawa.ingest.journal_lines import Feedback, Step


def is_otlp(record: dict[str, Any]) -> bool:
    return isinstance(record.get("resourceSpans"), list)


def read_otlp(record: dict[str, Any], origin: Origin) -> Iterator[Step | Feedback | BadRecordError]:
    """Spans of GenAI and OpenInference instrumentation; spans of anything else are left out."""
    for span in spans(record):
        if isinstance(span, BadRecordError):
            yield span
            continue
        try:
            if "openinference.span.kind" in span.attributes:
                yield openinference.step_of(span, origin)
            elif any(key.startswith("gen_ai.") for key in span.attributes):
                yield genai.step_of(span, origin)
        except BadRecordError as error:
            yield BadRecordError(error.reason, f"span '{span.name}' ({span.span_id}): {error}")
