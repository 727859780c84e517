"""The runs under the tables: a row a seed, with command, configuration, commit, weights and data."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from racg_pl.paper.confirm import words as confirmed
from racg_pl.paper.declared import Line, Table
from racg_pl.paper.state import State

LEFT = ' class="w"'  # of a cell of words
WRAPS = ' class="w wraps"'
HEAD = ("seed", "rsum", "minutes", "commit", "data", "weights", "state", "record")
TRAINER = ("max_epochs", "precision", "gradient_clip_val")  # of its many options


def appendix(shown: Mapping[str, tuple[Table, Line, Sequence[State]]]) -> str:
    """By the name of its anchor, a row of a table with the states of its seeds; as HTML."""
    data: dict[str, tuple[str, Mapping[str, Any]]] = {}
    articles = [
        _article(name, table, line, [s for s in states if s.record], data) for name, (table, line, states) in shown.items()
    ]
    runs = "\n".join(articles) or "<p>No run has ended yet.</p>"
    sets = "\n".join(_data(key, name, hashes) for key, (name, hashes) in data.items())
    lead = (
        "A row a seed. Each record, with the whole configuration and what was found query by query, is the JSON file that stands beside "
        "it, in the folder of the results."
    )
    return (
        f'<section id="runs">\n<h2><span class="number">Appendix</span>Runs</h2>\n<p class="lead">{lead}</p>\n{runs}\n</section>\n'
        f'<section id="data">\n<h2><span class="number">Appendix</span>Data</h2>\n{sets}\n</section>'
    )


def _article(
    name: str, table: Table, line: Line, states: Sequence[State], data: dict[str, tuple[str, Mapping[str, Any]]]
) -> str:
    """The runs of a row; what it says of their data for the first time is added to `data`."""
    records = [state.record for state in states if state.record]
    lines = []
    for state, record in zip(states, records, strict=True):
        key = hashlib.sha256(json.dumps(record["hashes"], sort_keys=True).encode()).hexdigest()[:12]
        data.setdefault(key, (state.data, record["hashes"]))
        seed = state.spec.seed
        what = f'<span class="stale">{state.kind}</span>'
        if state.kind == "done":
            what = "done, confirmed" if confirmed(record) else "done"
        why = f'<br><span class="stale">{html.escape(state.why)}</span>' if state.why else ""
        cells = (
            f"{record['metrics']['rsum']:.1f}",
            f"{sum(record['wall_time_s'].values()) / 60:.1f}",
            f"<code>{html.escape(record['commit'] or 'none')}</code>",
            f'<a href="#data-{key}"><code>{key}</code></a>',
            f"<code>{record['weights'][:12] or '–'}</code>",
            what + why,
            f"<code>{_breaking(f'{state.data}/seed{seed}/{line.name}.json'.replace('/seed0/', '/'))}</code>",
        )
        told = "".join(f"<td{WRAPS if place > 4 else ''}>{cell}</td>" for place, cell in enumerate(cells))
        lines.append(f'<tr id="run-{html.escape(name)}-seed{seed}"><th scope="row">{seed}</th>{told}</tr>')
    # a configuration may have been another at the commit of its run
    told_of = ((f"# at commit {record['commit'] or 'none'}", *record["commands"]) for record in records)
    commands = "\n\n".join("\n".join(lines) for lines in told_of)
    config = records[0]["config"]
    said = {part: {k: v for k, v in (config.get(part) or {}).items() if not k.startswith("_")} for part in ("model", "data")}
    said["trainer"] = {key: (config.get("trainer") or {}).get(key) for key in TRAINER}
    title = f"{html.escape(f'{line.title}, {table.data}')}: <code>{html.escape(line.name)}</code>"  # rows may share a label
    return (
        f'<article id="run-{html.escape(name)}"><h3>{title}</h3>\n{_small_table(HEAD, lines, 6)}\n{_confirmations(records)}'
        f"<details open><summary>commands</summary><pre>{html.escape(commands)}</pre></details>\n"
        '<details class="config"><summary>configuration</summary>'
        f"<pre>{html.escape(yaml.safe_dump(said, sort_keys=False, allow_unicode=True))}</pre></details></article>"
    )


def _confirmations(records: Sequence[Mapping[str, Any]]) -> str:
    """What confirmed runs showed, once for all seeds of which it is the same."""
    notes: dict[str, list[str]] = {}
    for record in records:
        if note := confirmed(record):
            notes.setdefault(note, []).append(str(record["seed"]))
    lines = []
    for note, seeds in notes.items():
        of = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}, " if len(seeds) < len(records) else ""
        lines.append((of + note)[0].upper() + (of + note)[1:] + ".")
    return "".join(f'<p class="note">{html.escape(line)}</p>\n' for line in lines)


def _breaking(path: str) -> str:
    """A path as HTML, which may go on in another line behind its parts."""
    return re.sub("([/_])", r"\1<wbr>", html.escape(path))


def _data(key: str, name: str, hashes: Mapping[str, Any]) -> str:
    lines = []
    for split, parts in hashes.items():
        for part, digest in parts.items() if isinstance(parts, dict) else [("", parts)]:
            cells = "".join(f"<td{LEFT}>{text}</td>" for text in (part, f"<code>{digest}</code>"))
            lines.append(f'<tr><th scope="row">{html.escape(split)}</th>{cells}</tr>')
    table = _small_table(("split", "part", "sha256 of its content"), lines, 1)
    return f'<article id="data-{key}"><h3>{html.escape(name)}, <code>{key}</code></h3>{table}</article>'


def _small_table(head: Sequence[str], lines: Sequence[str], left: int) -> str:
    """left: the first column behind the heads of the rows that holds words."""
    heads = "".join(f'<th scope="col"{LEFT if place >= left else ""}>{word}</th>' for place, word in enumerate(head))
    table = f'<table class="runs"><thead><tr>{heads}</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'
