"""The dataset card: what stands in the dataset, how sure it is, what it cost, what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from qbawa.config import DatasetConfig
from qbawa.datasets.exports.bias import Bias, measure
from qbawa.datasets.exports.formats import FORMATS
from qbawa.datasets.exports.plots import write_plots
from qbawa.text import shorten

Json = Any
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card tells beyond the pairs themselves. Absent facts are said to be absent."""

    reliability: pl.DataFrame | None = None
    """Rows of `judge_reliability` of the dataset's steps."""
    cost_usd: float | None = None
    """What all answers and verdicts of the dataset's steps cost."""
    sources: Mapping[str, int] | None = None
    """Requests by where their recordings came from."""
    strategies: Mapping[str, str] | None = None
    """Readable name by strategy_id."""


def write_card(
    folder: Path,
    name: str,
    config: DatasetConfig,
    pairs: pl.DataFrame,
    counts: Mapping[str, int],
    removed: Mapping[str, int],
    facts: Facts,
) -> None:
    """Write README.md with Hugging Face front matter, and its plots."""
    bias = measure(pairs)
    write_plots(folder / "plots", pairs)
    front = yaml.safe_dump(_front_matter(name, config, counts), sort_keys=False, allow_unicode=True)
    body = "\n\n".join(
        part
        for part in (
            f"# {name}",
            _line(config.description),
            _contents(config, pairs, counts),
            _sure(pairs),
            _judges(pairs, facts),
            _cost(pairs, facts),
            _biases(bias),
            _left_out(removed),
            _rights(config, pairs),
            _sources(facts),
        )
        if part
    )
    (folder / "README.md").write_text(f"---\n{front}---\n\n{body}\n", encoding="utf-8")


def _front_matter(name: str, config: DatasetConfig, counts: Mapping[str, int]) -> dict[str, Json]:
    total = sum(counts.values())
    holds = FORMATS[config.format].holds
    return {
        "pretty_name": name,
        "license": config.license or "unknown",
        "task_categories": ["text-generation"],
        "size_categories": [next((label for limit, label in _SIZES if total < limit), "n>10M")],
        "tags": ["qbawa", config.format, "preference" if holds != "best" else "sft"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": split, "path": f"{split}.jsonl"} for split in counts]}
        ],
    }


def _contents(config: DatasetConfig, pairs: pl.DataFrame, counts: Mapping[str, int]) -> str:
    by_split = pairs.group_by("split").agg(pl.len(), pl.col("request_id", "cluster").n_unique())
    held = {split: numbers for split, *numbers in by_split.rows()}
    rows = "\n".join(
        f"| {split} | {count:,} | {pairs_:,} | {requests:,} | {clusters:,} |"
        for split, count in counts.items()
        for pairs_, requests, clusters in [held[split]]
    )
    where = f", where `{shorten(config.where, 200)}`" if config.where else ""
    return (
        f"Question, best answer, worse answer, in the format `{config.format}`. Steps: {_listed(pairs['step'])}. "
        f"Pairs with p_best ≥ {config.p_best:g}, policy `{config.policy}`{where}.\n\n"
        f"| split | rows | pairs | requests | question clusters |\n|---|---|---|---|---|\n{rows}\n\n"
        "Splits go by cluster of near-duplicate questions; no question stands in two of them (checked). "
        "`lineage.parquet` holds each pair's id, strategies, cells, judges, matches and p_best; "
        "`manifest.json` the SHA-256 of every file."
    )


def _sure(pairs: pl.DataFrame) -> str:
    p = pairs["p_best"].to_numpy()
    direct = float((pairs["basis"] == "direct").to_numpy().mean())
    return (
        "## How sure\n\n"
        f"p_best is the probability that best really is better: mean {p.mean():.3f}, lowest {p.min():.3f}, so about "
        f"{(1 - p).mean():.1%} of the pairs are expected to be the wrong way round. {direct:.1%} were judged directly, "
        "the others are inferred from matches of the same answers and the strategies' ratings.\n\n"
        "![how sure the pairs are, and how often the longer answer is best](plots/pairs.png)"
    )


def _judges(pairs: pl.DataFrame, facts: Facts) -> str:
    named = pairs["judges"].explode(empty_as_null=True).drop_nulls().value_counts()
    known = {}
    if facts.reliability is not None:
        known = {row["judge"]: row for row in facts.reliability.sort("step", "judge").iter_rows(named=True)}
    lines = [
        f"| {_cell(judge)} | {count:,} | "
        + " | ".join(_share(known.get(judge), column, form) for column, form in _RELIABILITY)
        + " |"
        for judge, count in named.sort("count", "judges", descending=[True, False]).rows()
    ]
    shares = pairs["dissent"].drop_nulls().to_numpy()
    note = f"\n\nMean dissent among the verdicts of judged pairs: {shares.mean():.1%}." if len(shares) else ""
    return (
        "## Judges\n\n| judge | pairs | agreement with people | accuracy | position bias | length bias |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(lines or ["| none | | | | | |"]) + note
    )


_RELIABILITY = (("agreement_human", ".1%"), ("accuracy", ".1%"), ("position_bias", "+.3f"), ("length_bias", "+.3f"))


def _cost(pairs: pl.DataFrame, facts: Facts) -> str:
    if facts.cost_usd is None:
        return "## Cost\n\nNot known."
    each = facts.cost_usd / pairs.height
    return f"## Cost\n\nThe answers and verdicts behind it cost ${facts.cost_usd:,.4f}: ${each:.6f} a pair."


def _biases(bias: Bias) -> str:
    return (
        "## Biases measured\n\n"
        f"- The longer answer is best in {bias.longer_best:.1%} of the pairs whose lengths differ (50 % is none).\n"
        f"- Best answers have {bias.best_chars:,.0f} characters on average, worse ones {bias.worse_chars:,.0f}.\n"
        f"- The answer with more markup (lists, headings, bold, code) is best in {bias.markup_best:.1%} of the pairs "
        "where it differs.\n"
        f"- The most frequent best strategy stands in {bias.top_best:.1%} of the pairs, the most frequent worse one in "
        f"{bias.top_worse:.1%}."
    )


def _left_out(removed: Mapping[str, int]) -> str:
    if not removed:
        return "## Left out\n\nNothing."
    lines = "\n".join(f"| {_cell(reason)} | {count:,} |" for reason, count in removed.items())
    return f"## Left out\n\n| reason | pairs |\n|---|---|\n{lines}"


def _rights(config: DatasetConfig, pairs: pl.DataFrame) -> str:
    consent = "every request carries the consent and licence of who made it" if config.consent else "not asked for"
    return (
        f"## Rights\n\n- Licence: {_line(config.license or '') or 'not stated'}\n- Consent: {consent}\n"
        f"- Redacted: {', '.join(config.redact) or 'nothing'}; pairs that hold a secret (API key, token, password) are "
        "never published with it."
    )


def _sources(facts: Facts) -> str:
    if not facts.sources:
        return "## Sources\n\nNot known."
    largest = sorted(facts.sources.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"| {_cell(source)} | {count:,} |" for source, count in largest[:_MOST_SOURCES]]
    if len(largest) > _MOST_SOURCES:
        lines.append(f"| {len(largest) - _MOST_SOURCES} more | {sum(n for _, n in largest[_MOST_SOURCES:]):,} |")
    return "## Sources\n\n| source | requests |\n|---|---|\n" + "\n".join(lines)


_MOST_SOURCES = 20


def _listed(values: pl.Series) -> str:
    return ", ".join(f"`{_cell(v)}`" for v in values.unique().sort())


def _share(row: Mapping[str, Json] | None, name: str, form: str = ".1%") -> str:
    value = row.get(name) if row else None
    return "–" if value is None else format(value, form)


def _cell(text: str) -> str:
    """Text that cannot break out of a Markdown table or become markup."""
    line = shorten(text, 80)
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!" else c for c in line)


def _line(text: str) -> str:
    return " ".join(text.split())
