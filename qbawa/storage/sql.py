"""Text and names as SQL takes them."""


def sql_literal(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """The name of a column, a table or a view, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'
