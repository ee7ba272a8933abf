"""The command line: `qbawa COMMAND`. One module a command; a module is loaded only when its command is called.

Exit codes: 0 done, 1 done in part (some cells failed, a check did not pass) or an unexpected error, 2 the user gave
something wrong, which the message explains, 3 a dollar cap of the user's stopped the run and nothing failed (`qbawa run`).
"""

import gc
import importlib
import os
import sys

COMMANDS = {
    "init": "Write a commented qbawa.yaml into the home.",
    "demo": "Run the whole flywheel on sample articles, without any key.",
    "up": "Start PostgreSQL, the Dagster UI, its daemon, and a receiver of traces.",
    "otlp": "Receive OpenTelemetry traces of applications in any language.",
    "import": "Bring recordings, answers or verdicts from elsewhere.",
    "status": "What the lake holds, what is missing, and the leaderboard.",
    "plan": "Cells, calls, dollars and minutes, before anything is spent.",
    "run": "Run stages of the flywheel without the UI.",
    "replay": "Check that recorded requests can be asked again as they were.",
    "sql": "Ask DuckDB SQL over all views.",
    "trace": "From any id back to its request and forward to the datasets.",
    "judge": "Judge matches yourself, in the terminal.",
    "export": "Write the datasets that qbawa.yaml declares.",
    "forget": "Remove a request from everything.",
    "doctor": "Check that everything that qbawa needs is there.",
}


def main() -> None:
    try:
        import click
    except ImportError:
        sys.exit("The command line needs more than the recorder: pip install 'qbawa[pipeline]'.")

    from qbawa import __version__
    from qbawa.errors import UserError

    class Group(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            if name not in COMMANDS:
                return None
            module = importlib.import_module(f"qbawa.cli.{'import_' if name == 'import' else name}")
            command: click.Command = module.command
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section("Commands"):
                formatter.write_dl(list(COMMANDS.items()))

    @click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__)
    def qbawa() -> None:
        """Record your AI pipeline, replay its steps, let answers compete, keep the QBaWa.

        Everything lies in one folder: $QBAWA_HOME, by default .qbawa/ here.
        """

    # Most of what a command makes is what it imports, which is no garbage.
    gc.set_threshold(20_000, 20, 50)
    # What we write holds recordings and answers: for the owner alone.
    os.umask(0o077)
    try:
        qbawa(prog_name="qbawa")
    except Exception as error:
        said = error if isinstance(error, UserError) else _storage_refusal(error)
        if said is None:
            raise
        click.echo(f"qbawa: {said}", err=True)
        sys.exit(2)


def _storage_refusal(error: Exception) -> Exception | None:
    from qbawa.storage.faults import explain

    return explain(error)
