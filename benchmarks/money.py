"""What a provider bills against what the caps and the ledger say, by faults, processes, kills and cancels.

    python benchmarks/money.py [--json] [--quick] [--only NAME,…] [--base-url ROOT]

The provider (`_mock_provider.py`, in a process of its own) counts what it bills, from the moment that it begins to work on
a reply. Payers are processes of the product on one home (`_paying.py`). The hardest setting comes first: hard caps, four
processes, all faults at once, kill -9. `--base-url` names the root of another provider that understands the same
`/control`, `/stats` and `/billed`. The last line is one JSON object:

    billed_over_cap          billed ÷ cap under hard caps, the most over all faults, 1 and 4 processes, and kills
    billed_over_cap_default  the same under soft caps, $10, 100 in flight, replies of 100 to 2,000 tokens
    uncounted_usd            dollars billed beyond what the ledger charges, the most over all settings
    paid_twice               calls whose outcome stood in the ledger and that were billed once more
    lost_on_cancel           replies billed and not in the ledger after SIGTERM and Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _mock_provider import BILLED_FAULTS, FINAL_FAULTS, MockProvider, running
from _paying import INPUT_USD, OUTPUT_USD, Ledger, Payer, pay, write_home

KEYS = ("billed_over_cap", "billed_over_cap_default", "uncounted_usd", "paid_twice", "lost_on_cancel")
LONGEST_S, QUICK_S = 780.0, 90.0
"""No further setting begins after so long."""
CAP_USD = 1.0
LATENCY_S = (0.05, 0.3)
MIXED = dict.fromkeys((*BILLED_FAULTS, "500", "503", "429"), 0.05)


class Findings:
    """The worst that was seen."""

    def __init__(self, quiet: bool) -> None:
        self.worst: dict[str, float | None] = dict.fromkeys(KEYS)
        """Null where nothing was measured."""
        self.left_out: list[str] = []
        """Settings for which there was no time."""
        self._quiet = quiet
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def see(self, setting: str, **found: float) -> None:
        for name, value in found.items():
            self.worst[name] = max(self.worst[name] or 0.0, value)
        if not self._quiet:
            print(f"{setting}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)


def billed_usd(provider: MockProvider) -> float:
    stats = provider.stats()
    return (stats["billed_input_tokens"] * INPUT_USD + stats["billed_output_tokens"] * OUTPUT_USD) / 1e6


def uncounted_usd(provider: MockProvider, home: Path) -> float:
    missing = billed_usd(provider) - Ledger.of(home).charged_usd
    return missing if missing > 1e-9 else 0.0


def begin(provider: MockProvider, **settings: Any) -> None:
    provider.control(
        **{"latency_s": LATENCY_S, "completion_tokens": (100, 500), "fault_retry_after_s": 0.05} | settings
    )


def kills(provider: MockProvider, folder: Path, seen: Findings, quick: bool) -> None:
    """Four processes at once, all faults, each killed again and again; then they may spend what is left."""
    home = write_home(
        folder, provider.base_url, {"usd_per_day": CAP_USD, "caps": "hard"}, timeout_s=1.0, max_attempts=3
    )
    begin(provider, faults=MIXED)
    for _ in range(2 if quick else 6):
        payers = [Payer(home, number * 1_000_000, 400, 8) for number in range(4)]
        billed = billed_usd(provider)
        until = time.monotonic() + 30
        while billed_usd(provider) < billed + 0.05 and time.monotonic() < until:
            if all(payer.process.poll() is not None for payer in payers):
                break
            time.sleep(0.02)
        for payer in payers:
            payer.end(signal.SIGKILL)
    pay(home, 400, 4)
    seen.see(
        "hard, 4 processes, all faults, kill -9",
        billed_over_cap=billed_usd(provider) / CAP_USD,
        uncounted_usd=uncounted_usd(provider, home),
    )


def hard(provider: MockProvider, folder: Path, seen: Findings, quick: bool) -> None:
    """Each fault by itself, and all of them, under hard caps with 4 processes and 1."""
    settings: list[tuple[str, dict[str, float]]] = [("all faults", MIXED)]
    chosen = ("hang", "no_usage", "null_content") if quick else BILLED_FAULTS
    settings += [(fault, {fault: 0.9}) for fault in chosen]
    for processes in (4, 1):
        for name, faults in settings:
            if quick and processes == 1 and name != "all faults":
                continue
            if seen.seconds > (QUICK_S if quick else LONGEST_S):
                seen.left_out.append(f"{name}, {processes} processes")
                continue
            home = write_home(
                folder / f"{name}-{processes}", provider.base_url, {"usd_per_day": CAP_USD, "caps": "hard"},
                timeout_s=1.0, max_attempts=3,
            )  # fmt: skip
            begin(provider, faults=faults)
            pay(home, 400 // processes, processes)
            seen.see(
                f"hard, {processes} processes, {name}",
                billed_over_cap=billed_usd(provider) / CAP_USD,
                uncounted_usd=uncounted_usd(provider, home),
            )


def soft(provider: MockProvider, folder: Path, seen: Findings, quick: bool) -> None:
    """$10 with 100 calls in flight whose answers differ twentyfold, the long ones taking longer or not."""
    cap = 10.0
    settings = [("long answers take longer", 1, {"latency_s": (0.05, 0.1), "latency_s_per_token": 0.001})]
    if not quick:
        settings += [
            ("latency independent of length", 1, {"latency_s": (0.2, 1.0)}),
            ("long answers take longer", 4, {"latency_s": (0.05, 0.1), "latency_s_per_token": 0.001}),
        ]
    for name, processes, latency in settings:
        # Without max_tokens the first answers teach what a call costs.
        home = write_home(folder / f"{name}-{processes}", provider.base_url, {"usd_per_day": cap})
        begin(provider, completion_tokens=(100, 2_000), **latency)
        with environment(QBAWA_MAX_TOKENS="0"):
            pay(home, 900 // processes, processes, 100 // processes)
        seen.see(
            f"soft, {processes} processes, {name}",
            billed_over_cap_default=billed_usd(provider) / cap,
            uncounted_usd=uncounted_usd(provider, home),
        )


def reruns(provider: MockProvider, folder: Path, seen: Findings, quick: bool) -> None:
    """The same calls asked by run after run: what stands in the ledger is not paid again, refusals included."""
    home = write_home(folder, provider.base_url, {"usd_per_day": 100.0}, max_attempts=3)
    for faults in (dict.fromkeys(FINAL_FAULTS, 0.12), {}):
        provider.control(keep_counts=True, faults=faults) if not faults else begin(provider, faults=faults)
        for _ in range(1 if quick else 2):
            pay(home, 100 if quick else 300)
            # Another process with the same calls at the same time.
            twins = [Payer(home, 0, 150 if quick else 450, 50) for _ in range(2)]
            for twin in twins:
                twin.result()
    seen.see("reruns", paid_twice=provider.stats()["ended_twice"], uncounted_usd=uncounted_usd(provider, home))


def cancels(provider: MockProvider, folder: Path, seen: Findings, quick: bool) -> None:
    """SIGTERM and Ctrl-C while a hundred calls are in flight."""
    for how in (signal.SIGTERM, signal.SIGINT):
        home = write_home(folder / how.name, provider.base_url, {"usd_per_day": 100.0})
        begin(provider, latency_s=(1.0, 2.0))
        payer = Payer(home, 0, 1_000)
        until = time.monotonic() + 60
        while provider.stats()["billed_replies"] < 150 and time.monotonic() < until:
            time.sleep(0.02)
        payer.end(how)
        attempts = sum(line["attempts"] for line in Ledger.of(home).lines if line["charged_usd"])
        seen.see(
            f"{how.name} with 100 in flight",
            lost_on_cancel=max(0, provider.stats()["billed_replies"] - attempts),
            uncounted_usd=uncounted_usd(provider, home),
        )


# `hard` last: of its many settings those are left out for which a busy machine has no time.
PHASES = {"kills": kills, "soft": soft, "reruns": reruns, "cancels": cancels, "hard": hard}


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    import os

    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer faults, for a first look")
    parser.add_argument("--only", help=f"comma-separated phases: {', '.join(PHASES)}")
    parser.add_argument("--base-url", help="root of another provider, such as http://127.0.0.1:9000")
    options = parser.parse_args()
    seen = Findings(options.json)
    for name in options.only.split(",") if options.only else PHASES:
        started = running() if options.base_url is None else contextlib.nullcontext(MockProvider(options.base_url))
        with started as provider, tempfile.TemporaryDirectory(prefix="qbawa-money-") as folder:
            PHASES[name](provider, Path(folder), seen, options.quick)
    rounded = {name: value if value is None else round(value, 6) for name, value in seen.worst.items()}
    print(json.dumps(rounded | {"quick": options.quick, "seconds": round(seen.seconds, 1), "left_out": seen.left_out}))


if __name__ == "__main__":
    main()
