"""The record of `racg bench` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from racg_pl.bench_parts import WHY

WHAT = {  # of a figure its name does not say
    "eval_f32_vs_definition": "message passing, pair by pair",
    "eval_f32_vs_plain": "plain torch, all pairs in blocks",
}


def rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [{name: rounded(one) for name, one in row.items()} for row in value]
    return round(value, 4) if isinstance(value, float) else value


def markdown(record: dict[str, Any]) -> str:
    """The record as a table, in its order. Memory is in MiB, whatever its keys say."""
    head = (
        f"`racg bench`, {record['config']} ({record['config_sha256'][:12]}), commit {record['commit']}, torch {record['torch']}, "
        f"{record['threads']} threads; times are medians, ratios of interleaved runs."
    )
    hidden = {"parts_eval", "parts_train", "null_because", "small", "config", "config_sha256", "commit", "torch", "threads"}
    shown = [(name, value) for name, value in record.items() if name not in hidden]
    rows = [f"| {label(name)} | {figure(name, value)} |" for name, value in shown]
    rows += [line for name in ("parts_train", "parts_eval") if name in record for line in parts_table(name, record[name])]
    because: dict[str, list[str]] = {}
    for name, reason in record["null_because"].items():
        because.setdefault(reason, []).append(name)
    notes = [f"\n{', '.join(names)}: {reason}." for reason, names in because.items()]
    return "\n".join([head, "", "| | |", "|---|---|", *rows, *notes])


def label(name: str) -> str:
    return f"{name} ({WHAT[name]})" if name in WHAT else name


def figure(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return (f"{value:,.4g}" if isinstance(value, float) else str(value)) + (" MiB" if name.endswith("_mb") else "")


def parts_table(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where the time goes: the parts of one program, in its order."""
    what = {"parts_train": "a training step of 128", "parts_eval": "128 images against 128 captions"}[name]
    head = f"| {what} | ms | floor in arithmetic | floor in bytes | why what is left is left |"
    numbers = [
        ["–" if row[column] is None else f"{row[column]:,.1f}" for column in ("ms", "arithmetic_ms", "bytes_ms")]
        for row in rows
    ]
    body = [f"| {row['part']} | {' | '.join(shown)} | {WHY[row['part']]} |" for row, shown in zip(rows, numbers, strict=True)]
    return ["", head, "|---|---|---|---|---|", *body]
