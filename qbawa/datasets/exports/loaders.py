"""Files beside the rows that some trainers want: LLaMA-Factory's dataset_info.json, a loader for DSPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qbawa.datasets.exports.manifest import canonical

_DSPY = '''"""The examples of this dataset for DSPy: `from load_dspy import load; trainset = load("train")`."""

import json
from pathlib import Path

import dspy


def load(split):
    """dspy.Example(**inputs, answer=best).with_inputs(*inputs) for every row of a split."""
    lines = (Path(__file__).parent / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [dspy.Example(**row).with_inputs(*(name for name in row if name != "answer")) for row in rows]
'''


def write_loaders(folder: Path, dataset: str, format_name: str, splits: Sequence[str], holds: str) -> None:
    """Write what the format's consumer needs besides the rows, if anything."""
    if format_name == "dspy":
        (folder / "load_dspy.py").write_text(_DSPY, encoding="utf-8")
    if format_name == "llama_factory":
        info = {
            f"{dataset}_{split}": {
                "file_name": f"{split}.jsonl",
                "ranking": holds == "pairs",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
                "tags": {
                    "role_tag": "from",
                    "content_tag": "value",
                    "user_tag": "human",
                    "assistant_tag": "gpt",
                    "observation_tag": "observation",
                    "function_tag": "function_call",
                    "system_tag": "system",
                },
            }
            for split in splits
        }
        (folder / "dataset_info.json").write_bytes(canonical(info))
