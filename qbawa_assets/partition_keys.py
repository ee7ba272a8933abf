"""Names as keys of Dagster's partitions, and back. Almost every name is its own key.

Dagster joins the keys of a cell's two dimensions with `|` and splits them there; PostgreSQL takes no NUL. A name that
holds one of them is written with percent signs behind a mark: `acme|42` becomes `%%acme%7C42`. All other names, any
Unicode, dots, slashes and quotes among it, are their own keys, as they always were.
"""

from urllib.parse import unquote

MARK = "%%"
REFUSED = "|\0"


def partition_key(name: str) -> str:
    """The partition key of a request or a strategy; no two names have the same one."""
    return MARK + _escaped(name) if _needs_escape(name) else name


def name_of(key: str) -> str:
    """The request or strategy that a partition key stands for."""
    name = _unescaped(key)
    return key if name is None else name


def _escaped(name: str) -> str:
    return "".join(f"%{ord(c):02X}" if c in REFUSED or c == "%" else c for c in name)


def _unescaped(key: str) -> str | None:
    """The name whose escaped form this is, None for a key that is a name itself."""
    if not key.startswith(MARK):
        return None
    name = unquote(key.removeprefix(MARK), errors="surrogatepass")
    return name if _needs_escape(name) and MARK + _escaped(name) == key else None


def _needs_escape(name: str) -> bool:
    # A name that looks like an escaped one is escaped too, or it would be taken for the other.
    return any(c in name for c in REFUSED) or _unescaped(name) is not None
