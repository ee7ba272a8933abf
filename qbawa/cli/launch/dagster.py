"""Dagster's processes, started on a home: the UI with its daemon, or one run."""

import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import qbawa
from qbawa.cli.launch.postgres import postgres
from qbawa.cli.launch.processes import Groups, end_leftovers, interruptible, own_groups
from qbawa.cli.launch.sockets import keep_fresh, listening, reachable, socket_folder
from qbawa.cli.launch.supervisor import (
    Announce,
    Server,
    bring_up,
    code_server_is_whole,
    python,
    unix_socket_answers,
)
from qbawa.errors import BusyError, InputError
from qbawa.project import Home
from qbawa.storage.files import file_lock

LOCATION = "qbawa"
POSTGRES_URL, POSTGRES_PIPE = "QBAWA_POSTGRES_URL", "QBAWA_POSTGRES_PIPE"
LOOK_EVERY_S, FRESHEN_EVERY_S = 0.5, 3600


@contextmanager
def dagster_environment(home: Home) -> Iterator[dict[str, str]]:
    """Environment variables with which any Dagster process works on this home; PostgreSQL runs meanwhile."""
    environment = _prepare(home)
    with postgres(home) as url:
        yield environment | {POSTGRES_URL: url}


def _prepare(home: Home) -> dict[str, str]:
    """Make a home ready for Dagster; its environment variables, without the database's address."""
    home.make_private()
    end_leftovers(home)
    home.dagster.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent / "dagster.yaml", home.dagster / "dagster.yaml")
    return os.environ | {
        "QBAWA_HOME": str(home.root),
        "DAGSTER_HOME": str(home.dagster),
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_OFFLINE_MODE": "true",
        # In our own processes alone: `resources` and `sensors` are no names to put into anybody's environment.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(project_folder()), os.environ.get("PYTHONPATH")])),
    }


def run_module(home: Home, module: str, arguments: Sequence[str]) -> int:
    """Exit code of `python -m module arguments` in Dagster's environment.

    Ctrl-C, SIGTERM and a closed terminal let it finish what it is at.
    """
    try:
        with interruptible(), dagster_environment(home) as environment, own_groups(home) as groups:
            return groups.start(python("-m", module, *arguments), environment).wait()
    except KeyboardInterrupt:
        return 130


def run_job(home: Home, arguments: Sequence[str]) -> int:
    """Exit code of `python -m qbawa_assets.run_job arguments` in Dagster's environment.

    Importing Dagster takes longer than starting PostgreSQL, so both go on at once: it reads the database's address from
    the pipe that POSTGRES_PIPE names. Ctrl-C, SIGTERM and a closed terminal let it finish the calls in flight.
    """
    try:
        with interruptible():
            environment, (reads, writes) = _prepare(home), os.pipe()
            # Closed on the way out, so that the module does not wait for an address that never comes.
            with own_groups(home) as groups, open(reads), open(writes, "w") as address:
                process = groups.start(
                    python("-m", "qbawa_assets.run_job", *arguments),
                    environment | {POSTGRES_PIPE: str(reads)},
                    pass_fds=(reads,),
                )
                with postgres(home) as url:
                    try:
                        with address:
                            address.write(url)
                        return process.wait()
                    finally:
                        # Before PostgreSQL stops: it is needed to the end.
                        groups.end()
    except KeyboardInterrupt:
        return 130


@dataclass(frozen=True)
class OtlpPort:
    """Where spans of OpenTelemetry are received."""

    port: int
    token: str | None
    wanted: bool
    """Whether somebody has named the port."""


def serve(
    home: Home,
    host: str,
    port: int,
    announce: Announce,
    *,
    token: str | None = None,
    names: Collection[str] = (),
    otlp: OtlpPort | None = None,
) -> int:
    """Run the Dagster UI and daemon until Ctrl-C or SIGTERM, and leave no process behind.

    `announce` is given lines for the terminal. With a token the UI asks for it; `names` are host names of this server
    beside those that are evident. With `otlp`, spans of OpenTelemetry are received as well. Raises BusyError where this
    home is served already or a port is taken.
    """
    from qbawa.cli.launch.access import known_names

    with _sole_server(home), interruptible(), ExitStack() as held:
        end_leftovers(home)
        try:
            # Held from now on, so that nobody else can take it while PostgreSQL starts.
            listener = held.enter_context(listening(host, port, "--port"))
            known = known_names(host, names)
            address = Address(host, port, token, known, listener.fileno())
            spans = None
            if otlp and (receiver := _otlp_listener(held, host, otlp, announce)):
                spans = Address(host, otlp.port, otlp.token, known, receiver.fileno())
            announce(f"Starting PostgreSQL and Dagster on {home.root} (about 20 s) ...")
            with dagster_environment(home) as environment, own_groups(home) as groups:
                _serve_until_interrupted(home, environment, groups, address, spans, announce)
        except KeyboardInterrupt:
            pass
    return 0


def _otlp_listener(held: ExitStack, host: str, otlp: OtlpPort, announce: Announce) -> socket.socket | None:
    """The socket for spans; None, said aloud, where a port that nobody asked for by name is taken by somebody else."""
    try:
        return held.enter_context(listening(host, otlp.port, "--otlp-port"))
    except BusyError as error:
        if otlp.wanted:
            raise
        announce(f"No OpenTelemetry traces are received here: {error}")
        return None


@dataclass(frozen=True)
class Address:
    """Where a server listens, and for whom."""

    host: str
    port: int
    token: str | None
    names: frozenset[str]
    listener: int

    @property
    def url(self) -> str:
        return f"http://{reachable(self.host)}:{self.port}"


def _serve_until_interrupted(
    home: Home,
    environment: Mapping[str, str],
    groups: Groups,
    address: Address,
    spans: Address | None,
    announce: Announce,
) -> None:
    servers = _, webserver, daemon, *_ = _servers(home, environment, address, spans)
    bring_up(servers, groups, announce)
    if spans:
        announce(f"OpenTelemetry traces: OTEL_EXPORTER_OTLP_ENDPOINT={spans.url}")
        if spans.token:
            announce(f'  with OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20{spans.token}"')
    suffix = f"/?token={address.token}" if address.token else ""
    announce(f"Dagster UI: {address.url}{suffix}   (Ctrl-C stops everything)")
    freshened = time.monotonic()
    try:
        while True:
            for server in servers:
                server.watch(groups, announce)
            if time.monotonic() - freshened > FRESHEN_EVERY_S:
                keep_fresh(socket_folder(home))
                freshened = time.monotonic()
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        # First those that start runs, then the runs.
        for server in (daemon, webserver):
            server.stop()
        if under_way := groups.runs():
            announce(f"Waiting for {under_way} run{'s' * (under_way > 1)} to finish the calls in flight ...")
        raise


def _servers(
    home: Home, environment: Mapping[str, str], address: Address, spans: Address | None
) -> tuple[Server, Server, Server, *tuple[Server, ...]]:
    """Code server, webserver and daemon, then the receiver of spans where there is one."""
    from qbawa.cli.launch.access import OTLP_TOKEN_VARIABLE, TOKEN_VARIABLE

    code_socket, workspace = socket_folder(home) / "code", home.dagster / "workspace.json"
    # JSON is YAML, and quotes whatever a path holds.
    workspace.write_text(
        json.dumps({"load_from": [{"grpc_server": {"socket": str(code_socket), "location_name": LOCATION}}]})
    )
    folder = project_folder()
    quiet = {**environment, "PYTHONWARNINGS": "ignore"}
    for variable in (TOKEN_VARIABLE, OTLP_TOKEN_VARIABLE):
        quiet.pop(variable, None)
    code_server = Server(
        "code server",
        python(
            *("-m", "dagster", "code-server", "start", "--socket", str(code_socket)),
            *("--python-file", str(folder / "qbawa_assets" / "definitions.py"), "--working-directory", str(folder)),
            *("--location-name", LOCATION, "--inject-env-vars-from-instance", "--log-level", "warning"),
        ),
        quiet,
        is_ready=lambda: unix_socket_answers(code_socket),
        is_whole=code_server_is_whole,
    )
    webserver = Server(
        "webserver",
        python(
            *("-m", "qbawa_assets.webserver", "--workspace", str(workspace), "--code-server", str(code_socket)),
            *("--listener", str(address.listener), "--port", str(address.port), "--names", ",".join(address.names)),
        ),
        {**quiet, TOKEN_VARIABLE: address.token} if address.token else quiet,
        is_ready=lambda: _answers(address, "/server_info"),
        inherits=[address.listener],
    )
    daemon = Server(
        "daemon",
        python("-m", "dagster._daemon", "run", "--workspace", str(workspace), "--log-level", "warning"),
        quiet,
        is_ready=lambda: True,
        # It complains where there is none yet. The webserver has enough to load until then.
        needs=[code_server],
    )
    if spans is None:
        return code_server, webserver, daemon
    receiver = Server(
        "receiver of OpenTelemetry spans",
        python(
            *("-m", "qbawa.cli.launch.otlp_server", "--listener", str(spans.listener), "--port", str(spans.port)),
            *("--names", ",".join(spans.names), "--journal", str(home.journal)),
        ),
        {**quiet, OTLP_TOKEN_VARIABLE: spans.token} if spans.token else quiet,
        is_ready=lambda: _answers(spans, "/"),
        inherits=[spans.listener],
    )
    return code_server, webserver, daemon, receiver


def project_folder() -> Path:
    """The folder that holds workspace.yaml and the asset code: inside the wheel, else the checkout.

    Raises InputError where neither is there.
    """
    package = Path(qbawa.__file__).resolve().parent
    for folder in (package / "dagster_project", package.parent):
        if (folder / "workspace.yaml").exists():
            return folder
    raise InputError(
        f"The Dagster project that belongs to {package} is missing. Install the wheel whole (pip install 'qbawa[pipeline]'), "
        "or clone the repository and use its `make up`."
    )


@contextmanager
def _sole_server(home: Home) -> Iterator[None]:
    home.root.mkdir(parents=True, exist_ok=True)
    path = home.root / "up.lock"
    with ExitStack() as held:
        try:
            lock = held.enter_context(file_lock(path, wait=False))
        except BlockingIOError:
            raise BusyError(
                f"qbawa is up on {home.root} already (process {path.read_text().strip() or 'unknown'}). "
                "Stop that one with Ctrl-C first, or set QBAWA_HOME to another folder."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _answers(address: Address, path: str) -> bool:
    import urllib.request

    headers = {"Host": f"localhost:{address.port}"}
    if address.token:
        headers["Authorization"] = f"Bearer {address.token}"
    request = urllib.request.Request(f"{address.url}{path}", headers=headers)
    try:
        # Never through a proxy that the environment names.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=1):
            return True
    except OSError:
        return False
