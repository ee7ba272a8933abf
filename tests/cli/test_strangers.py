"""Strangers: pages of other sites, other names of this machine, other users of it; and what `qbawa up` leaves behind.

Real requests against a real `qbawa up`, whose home has a path that is longer than a UNIX socket's may be.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from dagster_home import configure
from running_up import Up, environment, free_port, processes_of, qbawa, running_up, wait_for
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from qbawa.cli.launch.access import Guarded, Rules, known_names
from qbawa.cli.launch.postgres_server import reachable
from qbawa.project import Home

pytestmark = pytest.mark.hostile

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOBODY = 65534
MUTATION = """
mutation($key: String!) {
  addDynamicPartition(
    repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "qbawa"},
    partitionsDefName: "request", partitionKey: $key
  ) { __typename ... on PythonError { message } }
}
"""
KEYS = 'query { assetNodeOrError(assetKey: {path: ["tournament_brackets"]}) { ... on AssetNode { partitionKeys } } }'


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    folder = Path(tempfile.mkdtemp(prefix="qb-", dir="/tmp"))
    folder.chmod(0o755)
    home = Home(folder / "/".join(["a long way down"] * 7) / "50% häuslich")
    configure(home)
    home.root.chmod(0o755)
    try:
        with running_up(home) as running:
            # As the UI asks, so that what strangers ask below would work too if it were let through.
            own = {"Origin": running.url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
            added = graphql(running, MUTATION, own, key="ours").json()["data"]["addDynamicPartition"]
            assert added == {"__typename": "AddDynamicPartitionSuccess"}
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def graphql(up: Up, query: str, headers: dict[str, str] | None = None, **variables: str) -> httpx.Response:
    return httpx.post(
        f"{up.url}/graphql", json={"query": query, "variables": variables}, headers=headers or {}, timeout=60
    )


def partitions(up: Up) -> list[str]:
    answer = graphql(up, KEYS).json()
    keys: list[str] = answer["data"]["assetNodeOrError"]["partitionKeys"]
    return keys


# Pages of other sites


def test_a_program_and_a_browser_that_comes_through_a_tunnel_may_ask(up: Up) -> None:
    assert partitions(up) == ["ours"]
    assert graphql(up, KEYS, {"Host": "localhost:8080", "Origin": "http://localhost:8080"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "192.0.2.1"},
        {"Host": ""},
    ],
)
def test_a_foreign_page_neither_reads_nor_changes(up: Up, headers: dict[str, str]) -> None:
    for query in (KEYS, MUTATION):
        refused = graphql(up, query, headers, key="theirs")
        assert refused.status_code == 403
        assert refused.text.count("\n") == 1
    assert partitions(up) == ["ours"]


@pytest.mark.parametrize("path", ["/", "/server_info", "/runs", "/download_debug/1", "/logs/a/b/c"])
def test_a_rebound_name_reads_nothing(up: Up, path: str) -> None:
    assert httpx.get(up.url + path, headers={"Host": f"evil.example:{up.port}"}).status_code == 403


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "//graphql", "/graphql%0A", "/%67raphql", "/x/../graphql"])
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_no_address_holds_a_mutation(up: Up, path: str, accept: str) -> None:
    asked = {"query": MUTATION, "variables": json.dumps({"key": "theirs"})}
    answer = httpx.get(up.url + path, params=asked, headers={"Accept": accept}, timeout=60)
    assert answer.status_code >= 400 or "<!doctype html>" in answer.text.lower()
    assert partitions(up) == ["ours"]


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/plain; application/json",
        "application/graphql",
        "multipart/form-data; boundary=x",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/recordings"])
def test_what_a_form_can_send_changes_nothing(up: Up, kind: str, path: str) -> None:
    body = json.dumps({"query": MUTATION, "variables": {"key": "theirs"}})
    answer = httpx.post(
        up.url + path, params={"query": MUTATION}, content=body, headers={"Content-Type": kind} if kind else {}
    )
    assert answer.status_code == 415
    assert partitions(up) == ["ours"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(up: Up, method: str) -> None:
    answer = httpx.request(method, f"{up.url}/graphql", headers={"Content-Type": "application/json"})
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_links_from_elsewhere_open_pages_and_nothing_else(up: Up) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    page = httpx.get(f"{up.url}/assets", headers=link)
    assert page.status_code == 200
    assert page.headers["x-frame-options"] == "DENY"
    assert httpx.get(f"{up.url}/assets", headers={**link, "Sec-Fetch-Dest": "iframe"}).status_code == 403
    for data in ("server_info", "graphql", "logs/x", "download_debug/x", "notebook"):
        assert httpx.get(f"{up.url}/{data}", headers=link).status_code in (403, 405), data


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}])
def test_a_foreign_page_opens_no_websocket(up: Up, headers: dict[str, str]) -> None:
    host = headers.get("Host")
    address = f"ws://{host}:{up.port}/graphql" if host else f"ws://127.0.0.1:{up.port}/graphql"
    origin = headers.get("Origin", f"http://{host}:{up.port}" if host else None)
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(address, address=("127.0.0.1", up.port), origin=origin, subprotocols=["graphql-ws"], proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_the_ui_itself_opens_a_websocket(up: Up) -> None:
    address = f"ws://127.0.0.1:{up.port}/graphql"
    with connect(address, origin=up.url, subprotocols=["graphql-ws"], proxy=None) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=30)) == {"type": "connection_ack"}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install the package chromium to try a hostile page")
def test_a_hostile_page_in_a_real_browser_gets_nothing(up: Up, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    (tmp_path / "index.html").write_text(
        HOSTILE.replace("PORT", str(up.port)).replace("MUTATION", json.dumps(MUTATION))
    )
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as site, sync_playwright() as playwright:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        # Another port of the same name is the nearest that a stranger comes: cookies would go along.
        page.goto(f"http://127.0.0.1:{site.server_port}/")
        page.wait_for_function("window.done !== undefined", timeout=60_000)
        assert page.evaluate("window.done") == {"read": "refused", "opaque": "sent", "websocket": "closed"}
        framed = page.frame(name="framed")
        assert framed is not None and framed.url.startswith("chrome-error:"), "it may not be shown inside another page"
        browser.close()
        site.shutdown()
    assert partitions(up) == ["ours"]


HOSTILE = """<!doctype html><iframe name="framed" src="http://127.0.0.1:PORT/"></iframe>
<form id="form" target="framed" method="post" enctype="text/plain" action="http://127.0.0.1:PORT/graphql"></form>
<script>
const query = MUTATION, url = 'http://127.0.0.1:PORT/graphql', body = JSON.stringify({query, variables: {key: 'theirs'}});
const get = url + '?' + new URLSearchParams({query, variables: JSON.stringify({key: 'theirs'})});
(async () => {
  new Image().src = get;
  document.getElementById('form').submit();
  const read = await fetch(url, {method: 'POST', headers: {'Content-Type': 'application/json'}, body})
    .then(() => 'answered', () => 'refused');
  const opaque = await fetch(url, {method: 'POST', mode: 'no-cors', headers: {'Content-Type': 'text/plain'}, body})
    .then(() => 'sent', () => 'refused');
  await fetch(get, {mode: 'no-cors'}).catch(() => null);
  const websocket = await new Promise(end => {
    const socket = new WebSocket('ws://127.0.0.1:PORT/graphql', 'graphql-ws');
    socket.onopen = () => end('open');
    socket.onerror = () => end('closed');
  });
  window.done = {read, opaque, websocket};
})();
</script>"""


# Beyond this machine


@contextmanager
def guarded(rules: Rules) -> Iterator[str]:
    """A server behind these rules whose pages say hello; its address."""

    async def hello(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "hello"})
            await send({"type": "websocket.close"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    server = uvicorn.Server(uvicorn.Config(Guarded(hello, rules), port=rules.port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{rules.port}"
    finally:
        server.should_exit = True
        thread.join()


TOKEN = "0123456789abcdef-._~"


@pytest.fixture(scope="module")
def behind_token() -> Iterator[str]:
    with guarded(Rules(known_names("0.0.0.0", ["ui.example"]), TOKEN, free_port())) as url:
        yield url


def test_without_the_token_nothing_is_shown(behind_token: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": f"token={TOKEN}"}):
        answer = httpx.get(behind_token, headers=headers)
        assert answer.status_code == 401
        assert "token" in answer.text and TOKEN not in answer.text
    with pytest.raises(InvalidStatus):
        connect(behind_token.replace("http", "ws"), proxy=None)


def test_the_token_is_taken_from_the_header(behind_token: str) -> None:
    assert httpx.get(behind_token, headers={"Authorization": f"Bearer {TOKEN}"}).text == "hello"
    header = {"Authorization": f"Bearer {TOKEN}"}
    with connect(behind_token.replace("http", "ws"), additional_headers=header, proxy=None) as socket:
        assert socket.recv(timeout=10) == "hello"


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(behind_token: str) -> None:
    with httpx.Client(base_url=behind_token) as browser:
        assert browser.get("/?token=wrong").status_code == 401
        entered = browser.get("/runs", params={"token": TOKEN})
        assert entered.status_code == 200
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        assert 'url=/runs"' in entered.text and TOKEN not in entered.text
        assert browser.get("/runs").text == "hello"


def test_the_address_after_the_token_is_on_this_server(behind_token: str) -> None:
    for path in ("//evil.example", "/\\evil.example", '/"><script>'):
        text = httpx.get(behind_token + path, params={"token": TOKEN}).text
        assert "url=//" not in text and "url=/\\" not in text and "<script>" not in text


def test_a_token_does_not_open_foreign_names_or_pages(behind_token: str) -> None:
    entry = {"Authorization": f"Bearer {TOKEN}"}
    for host in ("ui.example", "UI.example.", "192.0.2.7:3000", "[2001:db8::1]:3000"):
        assert httpx.get(behind_token, headers={**entry, "Host": host}).text == "hello"
    assert httpx.get(behind_token, headers={**entry, "Host": "evil.example"}).status_code == 403
    assert httpx.get(behind_token, headers={**entry, "Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--host", "::"], ["--name", "ui.example"]])
def test_up_refuses_to_be_open_to_everybody(tmp_path: Path, arguments: list[str]) -> None:
    home = Home(tmp_path)
    configure(home)
    refused = qbawa(home, "up", "--port", str(free_port()), *arguments)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "--token" in refused.stderr and "QBAWA_UI_TOKEN" in refused.stderr
    assert processes_of(home) == []


# Other users of this machine

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try as another user; run these tests as root")


def as_nobody(code: str) -> str:
    """What Python says when another user runs this."""
    # With the system's own interpreter: ours may lie where others have no way.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    done = subprocess.run(
        [python, "-c", code],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        env={},
    )
    return (done.stdout + done.stderr).strip()


@needs_root
def test_another_user_reads_no_file_and_reaches_no_socket(up: Up) -> None:
    assert as_nobody("print(open('/etc/hostname').read() and 'works')") == "works"
    (up.home.root / "catalog.duckdb").touch()
    for path in (up.home.config, up.home.catalog, up.home.lake, up.home.journal, up.home.postgres / "pgpass"):
        said = as_nobody(f"import os; print(os.stat({str(path)!r}))")
        assert "PermissionError" in said, said
    sockets = [Path(found.laddr) for process in processes_of(up.home) for found in _unix_sockets(process)]
    assert len(sockets) >= 2, "PostgreSQL's and the code server's"
    for path in {*sockets, _postgres_socket(up)}:
        said = as_nobody(f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r}); print('in')")
        assert "PermissionError" in said, (path, said)


def _unix_sockets(process: psutil.Process) -> list[Any]:
    return [found for found in process.net_connections("unix") if str(found.laddr).startswith("/")]


def _postgres_socket(up: Up) -> Path:
    return Path((up.home.root / "sockets.path").read_text()) / "postgres" / ".s.PGSQL.5432"


def test_every_folder_and_file_that_we_put_elsewhere_is_ours_alone(up: Up) -> None:
    assert stat.S_IMODE(up.home.root.stat().st_mode) == 0o700
    short = Path((up.home.root / "sockets.path").read_text())
    assert len(str(_postgres_socket(up))) < 100
    assert stat.S_IMODE(short.stat().st_mode) == 0o700 and short.stat().st_uid == os.geteuid()
    for path in up.home.root.rglob("*"):
        if not path.is_symlink() and path.name not in ("said", "qbawa.yaml"):
            assert path.stat().st_mode & 0o077 == 0, path


def test_folders_around_the_home_keep_their_mode(up: Up) -> None:
    around = up.home.root.parent
    before = around.stat().st_mode
    around.chmod(0o711)
    assert qbawa(up.home, "status").returncode == 0
    assert stat.S_IMODE(around.stat().st_mode) == 0o711
    around.chmod(stat.S_IMODE(before))


def test_postgres_asks_for_a_password_that_no_other_process_can_see(up: Up) -> None:
    import psycopg2

    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host=str(_postgres_socket(up).parent), user="postgres", dbname="dagster", passfile="/dev/null")
    password = (up.home.postgres / "pgpass").read_text().strip().rpartition(":")[2]
    assert len(password) >= 32
    for process in processes_of(up.home):
        try:
            told = [*process.cmdline(), *process.environ().values()]
        except psutil.NoSuchProcess:
            continue  # PostgreSQL's workers come and go
        assert password not in " ".join(told), "everybody can read a command line"
    shown = graphql(up, "query { instance { info } }").text
    assert "PostgresRunStorage" in shown, "the page that shows the instance's configuration"
    assert password not in shown


def test_programs_below_a_closed_folder_are_copied_to_where_another_user_can_run_them(tmp_path: Path) -> None:
    installed = tmp_path / "closed" / "pginstall"
    (installed / "bin").mkdir(parents=True)
    (installed / "bin" / "postgres").write_text("#!/bin/sh\n")
    (installed / "bin" / "postgres").chmod(0o700)
    (tmp_path / "closed").chmod(0o700)
    copy = reachable(installed, tmp_path / "shared")
    assert copy != installed
    assert stat.S_IMODE((copy / "bin" / "postgres").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o700
    assert reachable(installed, tmp_path / "shared") == copy


# Ends


@pytest.mark.parametrize("which", ["dagster._daemon", "qbawa_assets.webserver", "code-server", "grpc"])
def test_what_is_killed_is_started_again(up: Up, which: str) -> None:
    wait_for(lambda: _those(which, up), up, which)
    said = up.said
    (victim,) = _those(which, up)
    victim.kill()
    wait_for(lambda: "starting it again" in up.said[len(said) :], up, "the word of it")
    wait_for(lambda: [process for process in _those(which, up) if process != victim], up, which)
    wait_for(lambda: _loads(up), up, "the UI and its code")


def _those(which: str, up: Up) -> list[psutil.Process]:
    return [process for process in processes_of(up.home) if _is(which, process)]


def _is(which: str, process: psutil.Process) -> bool:
    try:
        command, above = process.cmdline(), process.parent()
        if which == "grpc":
            # What a killed code server has left lives until it misses the heartbeat; it is not the one in use.
            return which in command and above is not None and "code-server" in above.cmdline()
        return which in command and ("code-server" in command) == (which == "code-server")
    except psutil.Error:
        return False  # it has just ended


def _loads(up: Up) -> bool:
    try:
        return partitions(up) == ["ours"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


def test_the_next_command_ends_what_a_killed_one_left(up: Up) -> None:
    left = [process for process in processes_of(up.home) if process.pid != up.process.pid]
    assert len(left) >= 5
    up.process.kill()
    up.process.wait()
    done = qbawa(up.home, "run", "maintain_lake")
    assert done.returncode == 0, done.stderr
    assert processes_of(up.home) == []


def test_timeout_leaves_nothing_behind(up: Up, tmp_path: Path) -> None:
    """Both ways in which it ends: while everything starts, and in a run."""
    home = Home(tmp_path / "home")
    configure(home)
    for arguments, seconds in ((["up", "--port", str(free_port())], "12"), (["run", "flywheel"], "10")):
        command = ["timeout", seconds, sys.executable, "-m", "qbawa", *arguments]
        subprocess.run(command, env=environment(home), capture_output=True, timeout=200)
        gone, alive = psutil.wait_procs(processes_of(home), timeout=5)
        assert [process.cmdline() for process in alive] == []


def test_a_closed_terminal_ends_everything(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    configure(home)
    with running_up(home) as up:
        up.process.send_signal(signal.SIGHUP)
        assert up.process.wait(60) == 0
        assert processes_of(home) == []
