"""Who may spend how much of each cap: dollars that processes take from a shared account before they send.

An account is a cap's: `run:ID`, `day:DATE` or `step:NAME`. A process takes dollars in portions, so that the file is
touched now and then and not for each call. What it took counts as spent for all others until it settles at its end;
what a process that died had in flight stays counted, since the provider may have billed it.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol

from qbawa.storage.files import file_lock, write_atomically

PORTION = 1 / 16
"""Of what an account has left, that a process takes at once: so the last dollars are shared finely."""
FOLDER = "budget"
_SLOT_BYTES = 1 << 20
"""Of the file in which a process notes what it has committed; sparse, 16 bytes an account."""
_KEEP_S = 7 * 86_400.0
"""Accounts of runs and days that nobody touched for so long are dropped; the ledger knows what they spent."""


@dataclass(frozen=True, slots=True)
class Want:
    """An account that a process pays from: its cap, None without one, and what the next call needs, in USD."""

    account: str
    cap_usd: float | None
    need_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a process may have committed on an account in all, and how the account stands."""

    granted_usd: float
    elsewhere_usd: float
    """Spent by others, and by this process's predecessors."""
    others_under_way: bool
    """Other processes have calls in flight, which may turn out cheaper than what was set aside for them."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What a process that died had in flight: it may have been billed, and nobody will ever say."""

    run_id: str | None
    step: str | None
    usd: float


class Reservations(Protocol):
    """Where processes agree on what each may spend. A database can be another one."""

    def take(self, wants: Sequence[Want]) -> list[Grant]:
        """Give back what is not committed, and take what the next call needs or a portion, where that is left."""

    def note(self, account: str, committed_usd: float, under_way_usd: float) -> None:
        """This process has committed so much on an account in all, of which some is for calls in flight."""

    def lost(self) -> list[Lost]:
        """What dead processes had in flight, to be written into the ledger by the caller, and by nobody else while it lives."""

    def noted(self) -> None:
        """What `lost` has told stands in the ledger."""

    def close(self) -> None:
        """Settle: what is committed is spent."""


class LocalReservations:
    """One process alone, which knows what was spent before."""

    def __init__(self, spent_before: Callable[[str], float]) -> None:
        self._spent_before = spent_before
        self._elsewhere: dict[str, float] = {}

    def take(self, wants: Sequence[Want]) -> list[Grant]:
        grants = []
        for want in wants:
            spent = self._elsewhere.setdefault(want.account, self._spent_before(want.account))
            left = math.inf if want.cap_usd is None else want.cap_usd - spent
            grants.append(Grant(left, spent, others_under_way=False))
        return grants

    def note(self, account: str, committed_usd: float, under_way_usd: float) -> None: ...

    def add(self, account: str, usd: float) -> None:
        """Somebody else has spent so much."""
        self._elsewhere[account] = self._elsewhere.setdefault(account, self._spent_before(account)) + usd

    def lost(self) -> list[Lost]:
        return []

    def noted(self) -> None: ...

    def close(self) -> None: ...


class SharedReservations:
    """All processes of one home, through files in `folder`/budget.

    `accounts.json` holds what is spent and who has taken how much, written under a lock and fsynced whenever somebody
    takes more. Each process has a slot file besides, mapped into memory: there it notes at every call what it has
    committed, at the price of a store; kill -9 leaves it as it was. A lock on the slot says that the process lives.
    `spent_before` tells what the ledger knows of an account that the file does not know yet.
    """

    def __init__(self, folder: str | Path, run_id: str, spent_before: Callable[[str], float]) -> None:
        self._folder = Path(folder) / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run_id = run_id
        self._spent_before = spent_before
        self._places: dict[str, int] = {}
        self._granted: dict[str, float | None] = {}
        self._telling: list[Lost] = []
        self._id = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._slot = _Slot.create(self._slot_path(self._id))
        _slots.add(self._slot)

    def take(self, wants: Sequence[Want]) -> list[Grant]:
        with self._locked():
            book = self._read()
            before = json.dumps(book, sort_keys=True)
            self._bury(book)
            grants = [self._take(book, want) for want in wants]
            self._enter(book)
            if json.dumps(book, sort_keys=True) != before:
                self._write(book)
        return grants

    def note(self, account: str, committed_usd: float, under_way_usd: float) -> None:
        place = self._places.get(account)
        if place is not None:
            self._slot.note(place, committed_usd, under_way_usd)

    def lost(self) -> list[Lost]:
        with self._locked():
            book = self._read()
            if not book["lost"]:
                return []
            # Should this process die before it has written them down, whoever buries it finds them again.
            self._telling = [Lost(*entry) for entry in book["lost"]]
            book["lost"] = []
            self._enter(book)
            self._write(book)
        return self._telling

    def noted(self) -> None:
        if self._telling:
            with self._locked():
                book = self._read()
                self._telling = []
                self._enter(book)
                self._write(book)

    def close(self) -> None:
        if self._slot.closed:
            return
        with self._locked():
            book = self._read()
            book["holders"].pop(self._id, None)
            for name, place in self._places.items():
                account = self._account(book, name)
                account["spent_usd"] += self._slot.read(place)[0]
            old = time.time() - _KEEP_S
            in_use = {name for holder in book["holders"].values() for name in holder["accounts"]}
            for name, account in list(book["accounts"].items()):
                if not name.startswith("step:") and name not in in_use and account["touched_at"] < old:
                    del book["accounts"][name]
            self._write(book)
            self._slot.close()
            self._slot_path(self._id).unlink(missing_ok=True)

    def _enter(self, book: dict[str, Any]) -> None:
        """Put this process into the book as it stands."""
        book["holders"][self._id] = {
            "run_id": self._run_id,
            "boot": _boot_id(),
            "accounts": {name: [place, self._granted.get(name)] for name, place in self._places.items()},
            "telling": [astuple(lost) for lost in self._telling],
        }

    def _take(self, book: dict[str, Any], want: Want) -> Grant:
        account = self._account(book, want.account)
        place = self._places.setdefault(want.account, len(self._places))
        committed, _ = self._slot.read(place)
        others = settled = 0.0
        under_way = False
        for name, holder in book["holders"].items():
            if name == self._id or want.account not in holder["accounts"]:
                continue
            its_place, its_grant = holder["accounts"][want.account]
            its_committed, in_flight = _Slot.look(self._slot_path(name), its_place)
            others += max(its_grant or 0.0, its_committed)
            settled += its_committed - in_flight
            under_way |= in_flight > 0
        elsewhere = account["spent_usd"] + settled
        if want.cap_usd is None:
            self._granted[want.account] = None
            return Grant(math.inf, elsewhere, under_way)
        left = want.cap_usd - account["spent_usd"] - others - committed
        more = min(left, max(want.need_usd, left * PORTION)) if 0 < want.need_usd <= left else 0.0
        self._granted[want.account] = committed + more
        return Grant(committed + more, elsewhere, under_way)

    def _account(self, book: dict[str, Any], name: str) -> dict[str, float]:
        account = book["accounts"].get(name)
        if account is None:
            account = book["accounts"][name] = {"spent_usd": self._spent_before(name), "touched_at": time.time()}
        # By the day: touching an account must not be a reason to write.
        account["touched_at"] = max(account["touched_at"], time.time() // 86_400 * 86_400)
        return account

    def _bury(self, book: dict[str, Any]) -> None:
        """Settle for processes that died: what they had committed is spent, in flight or not."""
        for name, holder in list(book["holders"].items()):
            path = self._slot_path(name)
            if name == self._id or _Slot.is_held(path):
                continue
            # After a power cut the slot may be older than what happened; what was taken is known for sure.
            same_boot = holder["boot"] == _boot_id()
            run_lost, steps_lost = 0.0, {}
            for account_name, (place, granted) in holder["accounts"].items():
                committed, in_flight = _Slot.look(path, place)
                if not same_boot and granted is not None:
                    in_flight += max(0.0, granted - committed)
                    committed = max(committed, granted)
                self._account(book, account_name)["spent_usd"] += committed
                kind, _, what = account_name.partition(":")
                if kind == "run":
                    run_lost += in_flight
                elif kind == "step" and in_flight > 0:
                    steps_lost[what] = in_flight
            book["lost"] += [[holder["run_id"], step, usd] for step, usd in steps_lost.items()]
            rest = run_lost - sum(steps_lost.values())
            if rest > 1e-12:
                book["lost"].append([holder["run_id"], None, rest])
            book["lost"] += holder["telling"]
            del book["holders"][name]
            path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            book = json.loads((self._folder / "accounts.json").read_bytes())
        except FileNotFoundError:
            book = {}
        return {"v": 1} | {
            name: book.get(name, empty) for name, empty in (("accounts", {}), ("holders", {}), ("lost", []))
        }

    def _write(self, book: Mapping[str, Any]) -> None:
        write_atomically(self._folder / "accounts.json", json.dumps(book, sort_keys=True))

    def _slot_path(self, name: str) -> Path:
        return self._folder / f"{name}.slot"

    def _locked(self) -> AbstractContextManager[object]:
        return file_lock(self._folder / "accounts.lock")


class _Slot:
    """Two numbers an account, in a file mapped into memory: dollars committed, and those of them in flight."""

    def __init__(self, file: int, memory: mmap.mmap) -> None:
        self._file = file
        self._memory = memory
        self._numbers = memoryview(memory).cast("d")
        self.closed = False

    @classmethod
    def create(cls, path: Path) -> _Slot:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.ftruncate(file, _SLOT_BYTES)
        return cls(file, mmap.mmap(file, _SLOT_BYTES))

    def note(self, place: int, committed: float, in_flight: float) -> None:
        if self.closed:
            return
        # Where a kill falls between the two, too much is in flight rather than too little.
        self._numbers[2 * place] = committed
        self._numbers[2 * place + 1] = in_flight

    def read(self, place: int) -> tuple[float, float]:
        return self._numbers[2 * place], self._numbers[2 * place + 1]

    def close(self) -> None:
        """Also in a child after a fork: the lock is the parent's and must end with it."""
        if not self.closed:
            self.closed = True
            self._numbers.release()
            self._memory.close()  # it holds a descriptor of its own, and so the lock
            os.close(self._file)

    @staticmethod
    def look(path: Path, place: int) -> tuple[float, float]:
        """The numbers of another process, 0 where its slot is gone."""
        try:
            with path.open("rb") as file:
                data = os.pread(file.fileno(), 16, 16 * place)
        except FileNotFoundError:
            data = b""
        if len(data) < 16:
            return 0.0, 0.0
        committed, in_flight = memoryview(data).cast("d")
        return committed, in_flight

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether the process that made the slot lives. On a file system without locks everybody does."""
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False


def _boot_id() -> str:
    """Which start of this machine it is; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


_slots: weakref.WeakSet[_Slot] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for slot in list(_slots):
        slot.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
