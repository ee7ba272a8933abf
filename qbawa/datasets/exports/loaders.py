"""Files beside the rows that some trainers want: LLaMA-Factory's dataset_info.json, loaders for DSPy and TRL."""

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


_DSPY_TOOLS = '''"""The examples of this dataset for DSPy: `from load_dspy import load; trainset = load("train")`."""

import json
from pathlib import Path

import dspy

OUTPUTS = ("answer", "tool_calls")


def load(split):
    """dspy.Example(**inputs, answer=best, tool_calls=dspy.ToolCalls or None).with_inputs(*inputs) for every row of a split."""
    lines = (Path(__file__).parent / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [example(json.loads(line)) for line in lines]


def example(row):
    called = row.get("tool_calls")
    row["tool_calls"] = dspy.ToolCalls.from_dict_list(called) if called else None
    return dspy.Example(**row).with_inputs(*(name for name in row if name not in OUTPUTS))
'''

_TRL_TOOLS = '''"""This dataset for TRL: `from load_trl import load; train_dataset = load("train")`.

In the files the arguments of tool calls are JSON text: as objects, each call would get the keys of all others. Chat
templates want objects, so they are decoded as rows are taken out, and fields that a message does not have are dropped.
"""

import json
from pathlib import Path

from datasets import load_dataset


def load(split):
    """The rows of a split as a datasets.Dataset."""
    path = Path(__file__).parent / f"{split}.parquet"
    rows = load_dataset("parquet", data_files=str(path), split="train")
    return rows.with_transform(decoded)


def decoded(batch):
    return {name: [messages(cell) if isinstance(cell, list) else cell for cell in cells] for name, cells in batch.items()}


def messages(cell):
    return [{name: calls(value) for name, value in message.items() if value is not None} for message in cell]


def calls(value):
    if not isinstance(value, list):
        return value
    return [{**call, "function": {**call["function"], "arguments": arguments(call["function"])}} for call in value]


def arguments(function):
    try:
        return json.loads(function["arguments"])
    except ValueError:
        return function["arguments"]
'''


def write_loaders(
    folder: Path, dataset: str, format_name: str, splits: Sequence[str], holds: str, tool_form: bool = False
) -> None:
    """Write what the format's consumer needs besides the rows, if anything; `tool_form`: for rows that hold tools."""
    if format_name == "dspy":
        (folder / "load_dspy.py").write_text(_DSPY_TOOLS if tool_form else _DSPY, encoding="utf-8")
    if format_name.endswith("conversational") and tool_form:
        (folder / "load_trl.py").write_text(_TRL_TOOLS, encoding="utf-8")
    if format_name == "llama_factory":
        info = {
            f"{dataset}_{split}": {
                "file_name": f"{split}.jsonl",
                "ranking": holds == "pairs",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
                | ({"tools": "tools"} if tool_form else {}),
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
