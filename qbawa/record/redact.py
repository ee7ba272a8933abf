"""Rows without secrets. Runs in the writer thread, before anything touches the disk.

A screen over the encoded text, a few microseconds a row, decides whether a row could hold something at all. Such a row
is redacted value by value, so that what is written stays valid JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"  # also after an escape of JSON that is itself the content of a text


class Pattern(NamedTuple):
    """What to remove, but for its group `name` if it has one, and optionally a second look at each match.

    Every match contains one of `needles`; a text without any is not searched. No needles: every text is.
    """

    name: str
    needles: tuple[str, ...]
    regex: re.Pattern[str]
    confirms: Callable[[str], bool] | None = None

    def replacement(self, match: re.Match[str]) -> str:
        if self.confirms and not self.confirms(match[0]):
            return match[0]
        return f"{match.groupdict().get('name') or ''}[redacted:{self.name}]"


def _secret(name: str, needles: str, regex: str) -> Pattern:
    return Pattern(name, tuple(needles.split("|")), re.compile(regex))


def _assigned(separator: str) -> Pattern:
    """`api_key=…`, `password: …` and the like inside a text, where there is a digit in the value."""
    names = (
        *("api[_ -]key", "apikey", "secret[_-]key", "secretkey", "access[_-]key", "accesskey", "client[_-]secret"),
        *("app[_-]secret", "access[_-]token", "auth[_-]token", "refresh[_-]token", "session[_-]token", "api[_-]token"),
        *("bot[_-]token", "password", "passwd", "pwd"),
    )
    quotes = ("",) if separator == "=" else ("", "'", '"', '\\\\"')
    after_a_name = "|".join(f"(?<={name}{quote}{separator})" for name in names for quote in quotes)
    # The separator stands first, so that the search for it is one for a literal.
    regex = (
        rf"(?P<name>{separator}(?i:{after_a_name})\\*[\"']?)"
        r"(?!\[redacted:)(?=[^\s\"',;&}]*\d)[^\s\"',;&}]{6,}"
    )
    return Pattern("assigned_secret", (separator,), re.compile(regex))


SECRETS = (
    _secret("private_key", "-----BEGIN ", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*KEY-----|\Z)"),
    _secret("bearer_token", "earer ", r"\b[Bb]earer +[A-Za-z0-9._~+/-]{8,}=*"),
    _secret("basic_auth", "asic ", r"\b[Aa]uthorization: *[Bb]asic +[A-Za-z0-9+/]{8,}=*"),
    # OpenAI, Anthropic, OpenRouter, DeepSeek; xAI, Perplexity, NVIDIA
    _secret("api_key", "sk-|xai-|pplx-|nvapi-", _START + r"(?:sk-|xai-|pplx-|nvapi-)[A-Za-z0-9_-]{16,}"),
    # Groq, Hugging Face, Replicate; Stripe
    _secret("api_key", "gsk_|hf_|r8_", _START + r"(?:gsk_|hf_|r8_)[A-Za-z0-9_-]{16,}"),
    _secret("api_key", "k_live_|k_test_", _START + r"[srp]k_(?:live|test)_[A-Za-z0-9_-]{10,}"),
    _secret("api_key", "AIza", _START + r"AIza[A-Za-z0-9_-]{30,}"),
    _secret("api_key", "AKIA|ASIA", _START + r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    # GitHub; GitLab, Slack, Google OAuth
    _secret("access_token", "gh|github_pat_", _START + r"(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{16,}"),
    _secret("access_token", "glpat-|xox|ya29.", _START + r"(?:glpat-|xox[abeoprs]-|ya29\.)[A-Za-z0-9._-]{16,}"),
    _secret("json_web_token", "eyJ", _START + r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    _secret("url_password", "://", r"(?<=://)[^\s/:@\"'\\]+:[^\s/@\"'\\]+(?=@)"),
    _assigned("="),
    _assigned(": "),
)

# One of these is found in the encoded JSON of every row that a pattern above would change; a test holds them to it.
# Each begins with a character that is rare in text: looking for that one first takes a tenth of a regular expression.
_SCREEN = tuple(
    (regex[0], re.compile(regex))
    for regex in (
        r"-(?<=sk-|ai-|lx-|pi-|at-|---|x[abeoprs]-)[A-Za-z0-9_. -]{8}",
        r"_(?<=sk_|rk_|pk_|hf_|r8_|h[pousr]_|at_)[A-Za-z0-9_]{8}",
        r"J(?<=eyJ)[A-Za-z0-9]",
        r"K(?<=AK)IA[A-Z0-9]",
        r"S(?<=AS)IA[A-Z0-9]",
        r"I(?<=AI)za",
        r"2(?<=ya2)9\.",
        r"B(?=earer )",
        r"b(?=earer )",
        r"=(?i:(?<=key=|ret=|ord=|swd=|pwd=|ken=))",
        r'":(?<=[eE][yYtTnN]":|[rRwW][dD]":|[sS][eE]":|[oO][nN]":|[iI][eE]":|[lL][sS]":)'
        r'(?i:(?<=key":|ret":|ord":|swd":|ase":|ion":|kie":|als":)|(?<=[_hdrs -]token":))',
        r": (?i:(?<=key: |ret: |ord: |swd: |pwd: |ken: |ion: )"
        r"|(?<=(?:key|ret|ord|swd|pwd|ken)['\"]: )|(?<=(?:key|ret|ord|swd|pwd|ken)[\\]\": )"
        r"|(?<=(?:key|ret|ord|swd|pwd|ken)[\\]{3}\": ))",
    )
)


def _luhn(text: str) -> bool:
    """Whether the digits carry a valid card checksum (ISO/IEC 7812-1)."""
    digits = [int(character) for character in text if character.isdigit()]
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(odd) + sum(2 * digit - 9 * (digit > 4) for digit in even)) % 10 == 0


def _telephone(text: str) -> bool:
    """Long enough, no date with something after it, no decimal fraction."""
    other = re.match(r"\d{4}([-./])\d{1,2}\1\d{1,2}|\d{1,2}([-./])\d{1,2}\2\d{4}|\d+\.\d+$", text)
    return other is None and 9 <= sum(map(str.isdigit, text)) <= 15


PERSONAL = (
    Pattern(
        "email", ("@",), re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,7}")
    ),
    Pattern("card", (), re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"), _luhn),
    Pattern(
        "phone",
        (),
        re.compile(r"(?<![\w.+-])(?:\+|00)?\(?\d{1,4}\)?(?:[ ./-]?\(?\d{2,4}\)?){2,5}(?![\w-])"),
        _telephone,
    ),
)

# What stands under these keys is a secret whatever it looks like. Compared in lower case, without `_`, `-` and blanks.
SECRET_KEYS = frozenset({
    "accesskey", "accesstoken", "apikey", "authorization", "authtoken", "awssecretaccesskey", "bearertoken",
    "clientsecret", "cookie", "credentials", "idtoken", "passphrase", "passwd", "password", "privatekey",
    "proxyauthorization", "refreshtoken", "secret", "secretaccesskey", "secretkey", "sessiontoken", "setcookie",
    "xapikey",
})  # fmt: skip


class Redactor:
    """Redacts by the built-in patterns and by those of the user; `patterns` maps a name to a regular expression."""

    def __init__(self, *, personal: bool = False, patterns: Mapping[str, str] | None = None) -> None:
        own = tuple(Pattern(name, (), re.compile(regex)) for name, regex in (patterns or {}).items())
        self._more = (PERSONAL if personal else ()) + own

    def may_hold(self, text: str) -> bool:
        """Whether a text, or encoded JSON, could hold something to redact. Errs on the side of yes."""
        if self._more or ("@" in text and "://" in text):
            return True
        for first, screen in _SCREEN:  # noqa: SIM110  (a generator would double the cost)
            if first in text and screen.search(text):
                return True
        return False

    def clean(self, value: Any) -> Any:
        """JSON `value` with each match, in keys too, replaced by `[redacted:<name>]`."""
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is dict:
            return {
                self._text(key): "[redacted:key]" if item and _names_secret(key, item) else self.clean(item)
                for key, item in value.items()
            }
        if kind is list:
            return [self.clean(item) for item in value]
        if kind is int and not -(10**8) < value < 10**8:  # a card number that someone kept as a number
            text = self._text(json.dumps(value))
            return text if "[redacted:" in text else value
        return value

    def _text(self, text: str) -> str:
        if len(text) < 6 or not self.may_hold(text):
            return text
        for pattern in (*SECRETS, *self._more):
            if not pattern.needles or any(needle in text for needle in pattern.needles):
                text = pattern.regex.sub(pattern.replacement, text)
        return text


def _names_secret(key: str, item: Any) -> bool:
    return type(item) in (str, int, list) and re.sub(r"[-_ ]", "", key).lower() in SECRET_KEYS
