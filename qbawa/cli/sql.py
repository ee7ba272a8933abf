"""`qbawa sql`: DuckDB SQL over the views of the catalog."""

import click


@click.command("sql")
@click.argument("query", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
def command(query: str | None, as_json: bool, as_csv: bool) -> None:
    """Answer QUERY from the views; without QUERY, describe the views.

    The catalog is opened read-only, so nothing that is asked can change the lake.

    \b
    Example:
      qbawa sql "SELECT s.name, r.strength FROM ratings r JOIN strategies s USING (strategy_id) ORDER BY rank"
    """
    import csv
    import json
    import sys

    import duckdb

    from qbawa.errors import InputError
    from qbawa.project import open_project
    from qbawa.text import printable

    project = open_project()
    project.publish()
    with duckdb.connect(str(project.home.catalog), read_only=True) as connection:
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
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for name in names:
            table.add_column(Text(printable(name)))
        for row in rows:
            table.add_row(*(Text(printable("" if value is None else str(value))) for value in row))
        Console(soft_wrap=False).print(table)


_DESCRIBE = """
SELECT view_name AS view, comment AS "one row per", (
    SELECT string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() c WHERE c.table_name = v.view_name
) AS columns
FROM duckdb_views() v WHERE NOT internal ORDER BY view_oid
"""
