"""`qbawa sql`: DuckDB SQL over the views of the catalog."""

from collections.abc import Sequence
from decimal import Decimal

import click

# Texts and long names of numbers are folded into columns at least this wide.
LEAST_TEXT, LEAST_NAME = 10, 8


@click.command("sql")
@click.argument("query", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
def command(query: str | None, as_json: bool, as_csv: bool) -> None:
    """Answer QUERY from the views; without QUERY, describe the views.

    The catalog is opened read-only, so nothing that is asked can change the lake. The table rounds to four digits that
    count; --json and --csv are exact.

    \b
    Example:
      qbawa sql "SELECT s.name, r.strength FROM ratings r JOIN strategies s USING (strategy_id) ORDER BY rank"
    """
    import csv
    import json
    import sys

    import duckdb

    from qbawa.errors import InputError
    from qbawa.project import Home, current_catalog

    with duckdb.connect(str(current_catalog(Home.find())), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        try:
            answer = connection.execute(query or _DESCRIBE)
            names = [column[0] for column in answer.description or []]
            rows = answer.fetchall()
        except duckdb.Error as error:
            raise InputError(str(error)) from None
    if as_json:
        for row in rows:
            click.echo(json.dumps(dict(zip(names, row, strict=True)), default=str, ensure_ascii=False))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
    else:
        _print_table(names, rows)


def _print_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table as wide as the terminal, or wider where it could show a number only in part; texts are folded, never cut."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qbawa.text import printable

    cells = [[printable(_shown(value)) for value in row] for row in rows]
    numbers = [any(isinstance(row[at], int | float | Decimal) for row in rows) for at in range(len(names))]
    console, borders = Console(soft_wrap=False), 3 * len(names) + 1
    widths = []
    for at, (name, number) in enumerate(zip(names, numbers, strict=True)):
        longest = max((cell_len(line) for row in cells for line in row[at].splitlines()), default=0)
        natural = max(longest, min(cell_len(name), LEAST_NAME) if number else cell_len(name), 1)
        widths.append(natural if number else min(natural, console.width))
    while sum(widths) + borders > console.width:
        widest = max((w for w, number in zip(widths, numbers, strict=True) if not number), default=0)
        if widest <= LEAST_TEXT:
            console.width = sum(widths) + borders
            break
        widths = [w - 1 if w == widest and not n else w for w, n in zip(widths, numbers, strict=True)]
    table = Table()
    for name, number, width in zip(names, numbers, widths, strict=True):
        table.add_column(Text(printable(name)), justify="right" if number else "left", overflow="fold", width=width)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _shown(value: object) -> str:
    """A value as text; of a number with a fraction four digits that count."""
    if isinstance(value, float):
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"
    return "" if value is None else str(value)


_DESCRIBE = """
SELECT view_name AS view, comment AS "one row per", (
    SELECT string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() c WHERE c.table_name = v.view_name
) AS columns
FROM duckdb_views() v WHERE NOT internal ORDER BY view_oid
"""
