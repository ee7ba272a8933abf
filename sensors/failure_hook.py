"""Tells somebody of a run that failed: a web address or a program, as qbawa.yaml names them."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster import DagsterEvent, DagsterRun

from qbawa.config import FailureHookConfig
from qbawa.errors import ConfigError
from qbawa.text import shorten

PATIENCE_S = 20


def describe_failed_run(run: DagsterRun, message: str, steps: Sequence[DagsterEvent]) -> dict[str, Any]:
    """Job, run and reasons, as JSON. Texts are one line each, and cut: parts of them come from models and providers."""
    reasons = []
    for step in steps:
        failure = step.step_failure_data
        said = failure.user_failure_data.description if failure.user_failure_data else None
        reasons.append(shorten(said or (failure.error.message if failure.error else "") or step.message or "", 500))
    return {
        "job": run.job_name,
        "run_id": run.run_id,
        "message": shorten(message, 500),
        "reasons": reasons,
        "text": shorten(f"qbawa: {run.job_name} failed. {' '.join(reasons) or message}", 1_000),
    }


def tell(hook: FailureHookConfig, about: dict[str, Any], home: Path) -> None:
    """Post to the webhook, then run the command. Raises ConfigError where one of them does not take it; the other is tried."""
    body, problems = json.dumps(about), []
    if hook.webhook:
        try:
            _post(_address(hook.webhook), body.encode())
        except (OSError, ValueError) as error:
            # Without the address, which is a secret.
            problems.append(f"dagster.on_failure.webhook did not take it: {_reason(error)}")
    if hook.command:
        try:
            subprocess.run(
                hook.command, input=body, text=True, cwd=home, timeout=PATIENCE_S, check=True, capture_output=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            problems.append(f"dagster.on_failure.command did not take it: {shorten(str(said), 300)}")
    if problems:
        raise ConfigError(". ".join(problems))


def _address(webhook: str) -> str:
    if not webhook.startswith("$"):
        return webhook
    address = os.environ.get(webhook[1:])
    if not address:
        raise ValueError(f"the environment variable {webhook[1:]} is not set")
    return address


def _post(address: str, body: bytes) -> None:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=PATIENCE_S):
        pass


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return shorten(str(error.reason), 200)
    return shorten(str(error), 200) if isinstance(error, ValueError) else type(error).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is told of a run goes to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None
