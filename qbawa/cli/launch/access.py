"""Who may talk to a web interface of ours: an ASGI application around another one, and the rules that it keeps.

A page of any website can send requests to a server on this machine with the browser of whoever looks at it, and after
DNS rebinding it can read the answers. Browsers say where a request comes from: that is checked here for every request,
before the application sees it.
"""

import hashlib
import hmac
import html
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
TOKEN_VARIABLE = "QBAWA_UI_TOKEN"
OTLP_TOKEN_VARIABLE = "QBAWA_OTLP_TOKEN"
SHORTEST_TOKEN = 16
DEFAULT_PORTS = {"http": 80, "https": 443}

# Dagster's addresses that answer with data or change something; all others are pages and their files.
DATA_PATHS = frozenset(
    {
        *("graphql", "logs", "notebook", "dagit", "download_debug", "server_info", "dagit_info"),
        *("report_asset_materialization", "report_asset_check", "report_asset_observation"),
    }
)
# A page that is shown inside a foreign one can be clicked without being seen. A picture or anything else that a recorded
# text brings in from elsewhere would tell its owner when it is looked at, and by whom.
ALONE = (
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"frame-ancestors 'none'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self'; frame-src 'self'; form-action 'self'",
    ),
)


class Refusal(Exception):
    """A request that is not let through: a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True)
class Rules:
    """Under which names a server is known, and the token that it asks for, if any."""

    names: frozenset[str]
    token: str | None
    port: int

    def check(self, request: "Request") -> None:
        """Raises Refusal where the request comes from somewhere else or asks in a way that a foreign page could."""
        self.check_source(request)
        if request.kind == "http":
            _check_method(request)

    def check_source(self, request: "Request") -> None:
        """Raises Refusal where the request is addressed to another server, or comes from a page of one."""
        if re.search(r"[\x00-\x1f\x7f]", request.path):
            raise Refusal(400, "A path has no control characters.")
        self._check_host(request)
        _check_origin(request)

    def _check_host(self, request: "Request") -> None:
        hosts = request.all("host")
        name, _ = split_authority(hosts[0]) if len(hosts) == 1 else ("", None)
        known = name in self.names or (
            # A name that is a number belongs to nobody who could point it elsewhere.
            self.token is not None and _is_address(name)
        )
        if not known:
            shown = ", ".join(sorted(self.names))
            raise Refusal(403, f"This server is not known as {name or 'that'!r}, only as {shown}.")

    def admits(self, request: "Request") -> bool:
        """Whether the request brings the token, where one is asked for."""
        if self.token is None:
            return True
        scheme, _, credentials = request.one("authorization").partition(" ")
        if scheme.lower() == "bearer" and _same(credentials.strip(), self.token):
            return True
        return _same(request.cookies.get(self.cookie_name, ""), self.cookie_value)

    def login(self, request: "Request") -> bool:
        """Whether this is a visit to `/?token=…` with the right token."""
        if self.token is None or request.kind != "http" or request.method != "GET":
            return False
        return _same(parse_qs(request.query).get("token", [""])[0], self.token)

    @property
    def cookie_name(self) -> str:
        # Cookies know no ports: two servers on one machine must not overwrite each other's.
        return f"qbawa_{self.port}"

    @property
    def cookie_value(self) -> str:
        # Not the token itself: a browser sends it to every port of this machine.
        return hmac.new((self.token or "").encode(), b"qbawa cookie", hashlib.sha256).hexdigest()


class Request:
    """What the rules look at of an ASGI scope."""

    def __init__(self, scope: Scope) -> None:
        self.kind: str = scope["type"]
        self.method: str = scope.get("method", "GET")
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self._headers = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"]]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._headers if key == name]

    def one(self, name: str) -> str:
        """The value of a header; empty where it is absent. Raises Refusal where it comes twice."""
        values = self.all(name)
        if len(values) > 1:
            raise Refusal(400, f"The header {name} comes {len(values)} times.")
        return values[0] if values else ""

    @property
    def first_segment(self) -> str:
        return self.path.strip("/").split("/")[0].strip()

    @property
    def cookies(self) -> Mapping[str, str]:
        try:
            return {name: morsel.value for name, morsel in SimpleCookie("; ".join(self.all("cookie"))).items()}
        except CookieError:
            return {}


class Guarded:
    """An ASGI application of which only those who pass the rules see anything."""

    def __init__(self, application: Application, rules: Rules) -> None:
        self.application = application
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.application(scope, receive, send)
        try:
            request = Request(scope)
            self.rules.check(request)
            if self.rules.login(request):
                return await _answer(send, 200, _forward_page(request.path), self._cookie())
            if not self.rules.admits(request):
                raise Refusal(401, "Open the address with the token that `qbawa up` has printed: /?token=...")
        except Refusal as refusal:
            if scope["type"] == "websocket":
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": refusal.sentence[:120]})
            return await _answer(send, refusal.status, refusal.sentence + "\n")

        async def send_alone(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *ALONE]
            await send(message)

        await self.application(scope, receive, send_alone)

    def _cookie(self) -> tuple[tuple[bytes, bytes], ...]:
        value = f"{self.rules.cookie_name}={self.rules.cookie_value}; Path=/; HttpOnly; SameSite=Strict"
        return ((b"set-cookie", value.encode()), (b"referrer-policy", b"no-referrer"))


def known_names(host: str, others: Collection[str] = ()) -> frozenset[str]:
    """The names under which a server that listens on this host may be addressed."""
    names = {*LOOPBACK_NAMES, host.lower().strip("[]"), *(name.lower() for name in others)}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names - {"0.0.0.0", "::", ""})


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach a server that listens on this host."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def split_authority(authority: str) -> tuple[str, int | None]:
    """Name and port of a Host header or of an origin's end, in small letters and without brackets; ("", None) if unreadable."""
    try:
        parts = urlsplit(f"//{authority.strip()}")
        if parts.path or parts.query or parts.fragment or "@" in authority or not parts.hostname:
            return "", None
        return parts.hostname.rstrip("."), parts.port
    except ValueError:
        return "", None


def _check_origin(request: Request) -> None:
    origin, site = request.one("origin"), request.one("sec-fetch-site")
    if origin and not _is_own(origin, request.one("host")):
        raise Refusal(403, f"A page of {origin!r} may not ask this server for anything.")
    if site in ("", "same-origin", "none"):
        return
    # Links to a page, such as one in a chat, go on working.
    is_link = (
        request.kind == "http"
        and request.method in ("GET", "HEAD")
        and request.one("sec-fetch-mode") == "navigate"
        and request.one("sec-fetch-dest") == "document"
        and request.first_segment not in DATA_PATHS
    )
    if not is_link:
        raise Refusal(403, "A page of another site may not ask this server for anything.")


def _is_own(origin: str, host: str) -> bool:
    scheme, _, authority = origin.partition("://")
    if scheme not in DEFAULT_PORTS:
        return False
    name, port = split_authority(authority)
    own_name, own_port = split_authority(host)
    default = DEFAULT_PORTS[scheme]
    return bool(name) and (name, port or default) == (own_name, own_port or default)


def _check_method(request: Request) -> None:
    if request.method not in ("GET", "HEAD", "POST"):
        raise Refusal(405, "Only GET, HEAD and POST are answered here.")
    if request.method == "POST":
        # What a form of a foreign page can send without asking is never JSON.
        if request.one("content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "A POST here is JSON: Content-Type: application/json.")
    elif request.first_segment == "graphql" and (request.query or request.method == "HEAD"):
        raise Refusal(405, "GraphQL is asked here by POST with a JSON body alone, never in the address.")
    elif request.first_segment == "graphql" and "text/html" not in request.one("accept"):
        raise Refusal(405, "GraphQL is asked here by POST with a JSON body.")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


def _forward_page(path: str) -> str:
    # Not a redirect: a browser that came from another site would follow it without the cookie, which is a strict one.
    target = html.escape("/" + path.lstrip("/\\"), quote=True)
    return f'<!doctype html><meta http-equiv="refresh" content="0;url={target}"><a href="{target}">On to the UI</a>\n'


async def _answer(send: Send, status: int, text: str, headers: Collection[tuple[bytes, bytes]] = ()) -> None:
    kind = b"text/html; charset=utf-8" if status == 200 else b"text/plain; charset=utf-8"
    own = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *ALONE, *headers]})
    await send({"type": "http.response.body", "body": text.encode("utf-8", "replace")})
