"""What a disk, a folder or an object store refuses, said in one sentence with what to do."""

import errno
import re

from qbawa.errors import StorageError

# Libraries pass the operating system's reason on as text: Delta and Polars as `(os error 28)`.
_FULL = re.compile(r"no space left on device|\(os error 28\)|disk quota exceeded|\(os error 122\)", re.IGNORECASE)
_READ_ONLY = re.compile(r"read-only file system|\(os error 30\)", re.IGNORECASE)
_DENIED = re.compile(r"permission denied|\(os error 13\)", re.IGNORECASE)
_KEY = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|AccessDenied|40[13] (Forbidden|Unauthorized)"
    r"|necessary privileges|loading credentials|InvalidAuthenticationInfo|invalid_grant",
    re.IGNORECASE,
)
_BUCKET = re.compile(r"NoSuchBucket|specified bucket does not exist|ContainerNotFound", re.IGNORECASE)
_UNREACHABLE = re.compile(r"Generic \w+ error.*(error sending request|dns error|connect error|timed out)", re.DOTALL)
_CODE = re.compile(r"<Code>(\w+)</Code>")
_PATH = re.compile(r"(?:file|path|directory)[ :]+['\"]?(/[^\s'\"#]+)")


def explain(error: BaseException) -> StorageError | None:
    """The error as one sentence that says what to do, where it or what caused it is storage's refusal; else None."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        if said := _sentence(cause):
            return StorageError(said)
        cause = cause.__cause__ or cause.__context__
    return None


def _sentence(error: BaseException) -> str | None:
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(text):
        return (
            f"The disk is full{_at(error, text)}: No space left on device. Free some space and run the same command "
            "again; what was acknowledged is kept, and nothing is half written."
        )
    if number == errno.EROFS or _READ_ONLY.search(text):
        return (
            f"The home cannot be written{_at(error, text)}: Read-only file system. Mount it for writing, or set "
            "QBAWA_HOME to a folder that can be written."
        )
    if number in (errno.EACCES, errno.EPERM) or _DENIED.search(text):
        return (
            f"This user may not use the home{_at(error, text)}: Permission denied. Make it this user's own "
            "(chown, chmod u+rwX), or set QBAWA_HOME to a folder that is."
        )
    if number is not None:
        return None
    if match := _BUCKET.search(text):
        return f"The object store knows no such bucket ({match.group()}). Create it, or correct lake.uri in qbawa.yaml."
    if match := _KEY.search(text):
        code = _CODE.search(text)
        return (
            f"The object store refuses the key ({code.group(1) if code else match.group()}). Check lake.storage_options in "
            "qbawa.yaml, the variables that it names, and what the key may do on lake.uri."
        )
    if _UNREACHABLE.search(text):
        return (
            "The object store does not answer. Check the network, and lake.uri and the endpoint in lake.storage_options "
            "of qbawa.yaml."
        )
    return None


def _at(error: BaseException, text: str) -> str:
    name = getattr(error, "filename", None)
    if not name and (match := _PATH.search(text)):
        name = match.group(1)
    return f" ({name})" if name else ""
