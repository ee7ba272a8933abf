"""What a run says on the terminal: its stages and what they report, not every event of Dagster's bookkeeping."""

import logging
import sys
import time

from dagster import Field, InitLoggerContext, logger

from qbawa.storage.faults import explain


class _Stages(logging.Handler):
    """Prints messages of the stages themselves and, in one line, each stage's start."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        about = getattr(record, "dagster_meta", None) or {}
        event = about.get("dagster_event")
        if event is None:
            text = f"  {about.get('orig_message') or record.getMessage()}"
        elif event.event_type_value == "STEP_START":
            text = str(event.step_key).replace("_", " ")
        elif event.event_type_value == "STEP_FAILURE":
            text = "failed: " + _reason(event.event_specific_data)
        else:
            return
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", file=sys.stderr, flush=True)


def _reason(failure) -> str:  # type: ignore[no-untyped-def]
    """What the stage says about its failure, without the class that says it where that is our own."""
    error = failure.error
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    while error.cause is not None:
        error = error.cause
    if said := explain(RuntimeError(error.message)):
        return str(said)
    return str(error.message).strip().removeprefix(f"qbawa.errors.{error.cls_name}: ")


@logger({"log_level": Field(str, is_required=False, default_value="DEBUG")})
def console(context: InitLoggerContext) -> logging.Logger:
    """Dagster's console logger, reduced to what a person in front of a terminal wants to know."""
    found = logging.Logger("qbawa.run", level=context.logger_config["log_level"])
    handler = _Stages()
    found.addHandler(handler)
    return found
