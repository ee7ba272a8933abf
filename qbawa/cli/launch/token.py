"""The token that visitors of the UI must bring where others than this machine's programs can reach it."""

import os
import re
import secrets

from qbawa.cli.launch.access import SHORTEST_TOKEN, TOKEN_VARIABLE, is_loopback
from qbawa.errors import InputError
from qbawa.project import Home


def token_for(home: Home, host: str, *, wants_token: bool, named: bool) -> str | None:
    """The token to ask for: that of QBAWA_UI_TOKEN, else one that is generated once for this home; None for none.

    Raises InputError where others could reach the UI without one, and where the one given is no use.
    """
    given = os.environ.get(TOKEN_VARIABLE)
    if given:
        if len(given) < SHORTEST_TOKEN or not re.fullmatch(r"[\w.~-]+", given, re.ASCII):
            raise InputError(
                f"{TOKEN_VARIABLE} must have at least {SHORTEST_TOKEN} characters, letters, digits and -._~ alone."
            )
        return given
    if wants_token:
        return _generated(home)
    if not is_loopback(host) or named:
        where = f"on {host}" if not is_loopback(host) else "under another name"
        raise InputError(
            f"Whoever reaches the UI {where} could read all answers and start runs. Add --token to let in only who "
            f"brings the token that is then printed, or set {TOKEN_VARIABLE} to a secret of your own."
        )
    return None


def _generated(home: Home) -> str:
    """The same at every start, so that bookmarks and cookies go on working."""
    home.make_private()
    path = home.root / "ui.token"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(24)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token)
        return token
