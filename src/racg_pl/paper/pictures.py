"""Retrieved lists, successes and failures chosen by the rule of runs.py, with pictures where the data set can be drawn."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from racg_pl.captions import CaptionStore
from racg_pl.errors import DataError
from racg_pl.figure import rendered
from racg_pl.paper.declared import Table
from racg_pl.paper.state import Ground
from racg_pl.paper.values import Measured
from racg_pl.paper.words import Attention, Words, attention_of

RULE = (
    "Chosen by rule, not by hand. Successes: of the queries whose right answer came first, sorted by how far it led, those at one, two and "
    "three quarters of the way. Failures: of the others, sorted by the place of the right answer, those at one, two and three quarters. "
    "Blue: a right answer, beside the first five where it came later."
)

ATTENDED = "Its words and the regions of its own picture that they attend to, the first one outlined, with its share:"


def pictures(ground: Ground, table: Table, rows: Sequence[Measured]) -> str:
    """The lists of each row's first run, as HTML."""
    parts = [f'<p class="note">{RULE}</p>']
    for row in rows:
        if not row.records:
            why = next((state.why for state in row.states if state.kind == "needs"), "")
            parts.append(
                f'<p class="note">{html.escape(row.line.label)}: not run{f": needs {html.escape(why)}" if why else " yet"}.</p>'
            )
            continue
        try:
            plan = ground.plan(table.data)
        except DataError as error:
            parts.append(f'<p class="note">The pictures need the data set: {html.escape(str(error))}</p>')
            continue
        state = row.counted[0]
        record = state.record or {}
        link = f'<a href="#run-{table.data}-{row.line.name}">{html.escape(row.line.label)}, seed {record["seed"]}</a>'
        if record["hashes"].get(record["split"]) != plan.hashes.get(record["split"]):
            parts.append(f'<p class="note">{link}: not shown, since it was run on other data than are here now.</p>')
            continue
        asked = record["lists"]["t2i"]
        captions = [query["query"] for kind in ("successes", "failures") for query in asked[kind]]
        attention = attention_of(plan, state, captions)
        shower = Shower(plan.root, record, attention)
        if isinstance(attention, str):
            parts.append(f'<p class="note">{link}: which regions words attend to is not shown: {html.escape(attention)}.</p>')
        for kind in ("successes", "failures"):
            for direction, words in (("t2i", "a sentence asks for its picture"), ("i2t", "a picture asks for its sentences")):
                queries = record["lists"][direction][kind]
                parts.append(f"<h3>{link}: {words}, {kind}</h3>")
                parts += [getattr(shower, direction)(query) for query in queries] or ['<p class="note">None.</p>']
    return "\n".join(parts)


class Shower:
    """Queries of one split as HTML."""

    def __init__(self, root: Path, record: Mapping[str, Any], attention: Attention | str) -> None:
        self.root, self.split = root, record["split"]
        self.words = None if isinstance(attention, str) else Words(root, record, attention)
        self.captions = CaptionStore(root / f"{self.split}.captions.h5")

    def t2i(self, query: Mapping[str, Any]) -> str:
        own = int(self.captions.image[query["query"]])
        items = []
        for place, (image, score) in enumerate(query["matches"], start=1):
            right = ' class="right"' if image == own else ""
            items.append(f"<li{right}>{self.picture(image)}<b>{place}</b> · {score:.2f}</li>")
        if query["rank"] >= len(query["matches"]):
            items.append(f'<li class="right">{self.picture(own)}<b>{query["rank"] + 1}</b></li>')
        asked = html.escape(self.captions.texts[query["query"]])
        head = f'<p><span class="asked">{asked}</span> {_place(query["rank"])}</p>'
        attended = "" if self.words is None else f'<p class="note">{ATTENDED}</p>{self.words.html(query["query"])}'
        return f'<div class="query">{head}<ol class="hits">{"".join(items)}</ol>{attended}</div>'

    def i2t(self, query: Mapping[str, Any]) -> str:
        items = []
        for caption, score in query["matches"]:
            right = ' class="right"' if self.captions.image[caption] == query["query"] else ""
            items.append(f"<li{right}>{html.escape(self.captions.texts[caption])} <span>{score:.2f}</span></li>")
        if query["rank"] >= len(query["matches"]):
            own = int(np.flatnonzero(self.captions.image == query["query"])[0])
            items.append(
                f'<li class="right" value="{query["rank"] + 1}">one of its own: {html.escape(self.captions.texts[own])}</li>'
            )
        shown = f"<figure>{self.picture(query['query'])}</figure>"
        pair = f'<div class="pair">{shown}<ol class="lines">{"".join(items)}</ol></div>'
        return f'<div class="query"><p>{_place(query["rank"])}</p>{pair}</div>'

    def picture(self, image: int) -> str:
        """An image of a generated picture; of others its number, since none are stored."""
        if not (self.root / f"{self.split}.truth.h5").exists():
            return f"<code>image {image}</code> "
        code = base64.b64encode(_drawn(self.root, self.split, image)).decode()
        return f'<img alt="picture {image}" src="data:image/png;base64,{code}">'


def _place(rank: int) -> str:
    return f'<span class="lead">right answer in place {rank + 1}</span>'


@cache
def _drawn(root: Path, split: str, image: int) -> bytes:
    from racg_pl.scene_draw import small

    return rendered(small(_truth(root, split), image), "png", 150)


@cache
def _truth(root: Path, split: str) -> Any:
    from racg_pl.scene_truth import Truth

    return Truth(root / f"{split}.truth.h5")
