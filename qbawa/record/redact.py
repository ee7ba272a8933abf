"""Rows without secrets. Runs in the writer thread, before anything touches the disk.

A cheap look at the encoded text decides whether a row is searched at all; a row that may hold something is redacted
value by value, so that the result stays valid JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Pattern(NamedTuple):
    """What to look for: `needles` are lower-case texts one of which every match contains; none means always look."""

    name: str
    needles: tuple[str, ...]
    regex: re.Pattern[str]
    confirms: Callable[[str], bool] | None = None


def luhn(text: str) -> bool:
    """Whether the digits of `text` carry a valid card checksum (ISO/IEC 7812-1)."""
    digits = [int(character) for character in text if character.isdigit()]
    total = sum(digit if place % 2 == 0 else (2 * digit - 9 * (digit > 4)) for place, digit in enumerate(digits[::-1]))
    return 13 <= len(digits) <= 19 and total % 10 == 0


def _secret(name: str, needles: str, regex: str) -> Pattern:
    return Pattern(name, tuple(needles.split()), re.compile(regex))


_START, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"

SECRETS = (
    _secret("private_key", "-----begin", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*KEY-----|\Z)"),
    _secret("bearer_token", "bearer", r"(?i:\bbearer)[ :=]+[\"']?[A-Za-z0-9._~+/-]{8,}=*"),
    _secret("basic_auth", "basic", r"\b[Bb]asic +[A-Za-z0-9+/]{16,}=*"),
    _secret("api_key", "sk-", _START + r"sk-[A-Za-z0-9_-]{16,}"),
    _secret("api_key", "sk_ rk_ pk_live", _START + r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,}"),
    _secret("api_key", "aiza", _START + r"AIza[A-Za-z0-9_-]{30,}"),
    _secret("api_key", "akia asia", _START + r"(?:AKIA|ASIA)[A-Z0-9]{16}" + _END),
    _secret("api_key", "gsk_ xai- hf_ r8_ pplx- nvapi-", _START + r"(?:gsk_|xai-|hf_|r8_|pplx-|nvapi-)[A-Za-z0-9_-]{16,}"),
    _secret("access_token", "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_", _START + r"(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{16,}"),
    _secret("access_token", "glpat- xox ya29.", _START + r"(?:glpat-|xox[abeoprs]-|ya29\.)[A-Za-z0-9._-]{10,}"),
    _secret("json_web_token", "eyj", _START + r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    _secret("url_password", "://", r"(?<=://)[^\s/:@\"']+:[^\s/@\"']+(?=@)"),
    _secret(
        "assigned_secret",
        "key= key: key\\ key= token= token: secret= secret: password= password: passwd= pwd=",
        r"(?i:\b(?:[\w-]*api[_-]?key|[\w-]*access[_-]?token|[\w-]*secret(?:[_-]?key)?|password|passwd|pwd))"
        r"[\"']?\s*[=:]\s*[\"']?(?!\[redacted:)[^\s\"',;&}]{6,}",
    ),
)

PERSONAL = (
    _secret("email", "@", r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
    Pattern("card", (), re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"), luhn),
    Pattern("phone", (), re.compile(r"(?<![\w.+-])(?:\+|00)?\(?\d{1,4}\)?(?:[ ./-]?\(?\d{2,4}\)?){2,5}(?![\w-])"),
            lambda text: 9 <= sum(map(str.isdigit, text)) <= 15 and not _is_date(text)),
)

# Values under these keys are secrets whatever they look like. Compared in lower case without `_`, `-` and blanks.
SECRET_KEYS = frozenset(
    "apikey xapikey openaiapikey anthropicapikey secretkey clientsecret secret password passwd passphrase authorization "
    "proxyauthorization accesstoken refreshtoken idtoken authtoken bearertoken sessiontoken privatekey cookie setcookie "
    "accesskey secretaccesskey awssecretaccesskey credentials".split()
)
_KEY_NEEDLES = (
    'key"', 'secret"', 'password"', 'passwd"', 'passphrase"', 'authorization"', '_token"', '-token"', 'estoken"', 'ookie"',
    'accesstoken"', 'refreshtoken"', 'idtoken"', 'authtoken"', 'bearertoken"', 'credentials"',
)  # fmt: skip


class Redactor:
    """Redacts rows by built-in patterns and by those of the user, `patterns` mapping a name to a regular expression."""

    def __init__(self, *, personal: bool = False, patterns: Mapping[str, str] | None = None) -> None:
        own = tuple(Pattern(name, (), re.compile(regex)) for name, regex in (patterns or {}).items())
        self.patterns = SECRETS + (PERSONAL if personal else ()) + own
        self._always = any(not pattern.needles for pattern in self.patterns)
        needles = dict.fromkeys(needle for pattern in SECRETS for needle in pattern.needles)
        if personal:
            needles["@"] = None
        self._needles = (*needles, *_KEY_NEEDLES)

    def may_hold(self, text: str) -> bool:
        """Whether encoded JSON could hold something to redact. Errs on the side of yes."""
        if self._always:
            return True
        text = text.lower()
        return any(needle in text for needle in self._needles)

    def clean(self, value: Any) -> Any:
        """`value` with every match, in keys too, replaced by `[redacted:<name>]`."""
        if type(value) is str:
            return self._text(value)
        if type(value) is dict:
            return {
                self._text(key): "[redacted:key]" if item and _is_secret_key(key, item) else self.clean(item)
                for key, item in value.items()
            }
        if type(value) is list:
            return [self.clean(item) for item in value]
        if type(value) is int and not -(10**8) < value < 10**8:
            text = self._text(str(value))
            return value if text == str(value) else text
        return value

    def _text(self, text: str) -> str:
        lowered = text.lower()
        for name, needles, regex, confirms in self.patterns:
            if needles and not any(needle in lowered for needle in needles):
                continue
            mark = f"[redacted:{name}]"
            if confirms is None:
                text = regex.sub(mark, text)
            else:
                text = regex.sub(lambda match: mark if confirms(match[0]) else match[0], text)  # noqa: B023
        return text


def _is_secret_key(key: str, item: Any) -> bool:
    return type(item) in (str, int, list) and re.sub(r"[-_ ]", "", key).lower() in SECRET_KEYS


def _is_date(text: str) -> bool:
    return re.match(r"\d{4}[-./]\d{2}[-./]\d{2}", text) is not None or re.match(r"\d{2}[./]\d{2}[./]\d{4}", text) is not None
