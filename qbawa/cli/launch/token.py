"""Tokens that visitors of the UI, and applications that send spans, must bring where others than this machine's programs
can reach them."""

import os
import re
import secrets

from qbawa.cli.launch.access import OTLP_TOKEN_VARIABLE, SHORTEST_TOKEN, TOKEN_VARIABLE, is_loopback
from qbawa.errors import InputError
from qbawa.project import Home


def token_for(home: Home, host: str, *, wants_token: bool, named: bool) -> str | None:
    """The token to ask for: that of QBAWA_UI_TOKEN, else one that is generated once for this home; None for none.

    Raises InputError where others could reach the UI without one, and where the one given is no use.
    """
    given = _given(TOKEN_VARIABLE)
    if given:
        return given
    if wants_token:
        return _generated(home, "ui.token")
    if not is_loopback(host) or named:
        where = f"on {host}" if not is_loopback(host) else "under another name"
        raise InputError(
            f"Whoever reaches the UI {where} could read all answers and start runs. Add --token to let in only who "
            f"brings the token that is then printed, or set {TOKEN_VARIABLE} to a secret of your own."
        )
    return None


def otlp_token_for(home: Home, host: str, *, wants_token: bool, named: bool) -> str | None:
    """The same for applications that send spans. Not the UI's: who may add recordings need not be able to read them."""
    given = _given(OTLP_TOKEN_VARIABLE)
    if given:
        return given
    if wants_token:
        return _generated(home, "otlp.token")
    if not is_loopback(host) or named:
        where = f"on {host}" if not is_loopback(host) else "under another name"
        raise InputError(
            f"Whoever reaches the receiver of spans {where} could write recordings. Add --token to let in only who brings "
            f"the token that is then printed, or set {OTLP_TOKEN_VARIABLE} to a secret of your own."
        )
    return None


def _given(variable: str) -> str | None:
    given = os.environ.get(variable)
    if given and (len(given) < SHORTEST_TOKEN or not re.fullmatch(r"[\w.~-]+", given, re.ASCII)):
        raise InputError(f"{variable} must have at least {SHORTEST_TOKEN} characters, letters, digits and -._~ alone.")
    return given or None


def _generated(home: Home, name: str) -> str:
    """The same at every start, so that bookmarks, cookies and settings of applications go on working."""
    home.make_private()
    path = home.root / name
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(24)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)
        return token
