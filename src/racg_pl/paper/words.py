"""Which regions the words of the shown sentences attend to, kept in the run's record, so that the page needs no checkpoint again."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from racg_pl.errors import DataError, writing
from racg_pl.figure import rendered, sheet
from racg_pl.paper.state import State
from racg_pl.plan import Plan
from racg_pl.written import write_whole

REGIONS = 3  # of a word, those that it attends to most
WORDS = 6  # of a sentence, those whose first region has most

Attention = Mapping[str, Sequence[Sequence[Sequence[float]]]]  # caption: word: region and weight


def attention_of(plan: Plan, state: State, captions: Sequence[int]) -> Attention | str:
    """Regions and weights of each word of the captions, each with its own picture, or why they are not known here.

    They are computed where the run's checkpoint is here, and added to its record.
    """
    record = state.record
    assert record is not None
    if set(record.get("attention", {})) == {str(caption) for caption in captions}:
        return record["attention"]
    from racg_pl.grounding import caption_weights
    from racg_pl.training import load_module, read_checkpoint, weights_hash

    path = plan.checkpoint(state.spec)
    if not path.exists():
        return f"{path} is not here"
    try:
        if weights_hash(read_checkpoint(path)["state_dict"]) != record["weights"]:
            return f"{path} is of another run"
        weights = caption_weights(cast(Any, load_module(path).model), _split(plan.root, record), captions)
    except DataError as error:  # a damaged checkpoint, or a method without such weights
        return str(error)
    found = {}
    for caption, rows in weights.items():
        first = np.argsort(-rows, axis=1, kind="stable")[:, :REGIONS]
        found[str(caption)] = [[[int(r), round(float(row[r]), 3)] for r in some] for row, some in zip(rows, first, strict=True)]
    content = {**record, "attention": found}
    with writing(path := plan.record_path(state.spec)):
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return found


def _split(root: Path, record: Mapping[str, Any]) -> Any:
    from racg_pl.data import RetrievalData

    return RetrievalData(str(root), parser=record["config"]["data"]["parser"], test=record["split"]).split("test")


class Words:
    """Draws the words of sentences on their pictures, as HTML."""

    def __init__(self, root: Path, record: Mapping[str, Any], attention: Attention) -> None:
        self.root, self.record, self.attention = root, record, attention

    @cached_property
    def split(self) -> Any:
        return _split(self.root, self.record)

    @cached_property
    def backdrop(self) -> Any:
        from racg_pl.attention_draw import Backdrop
        from racg_pl.scene_truth import Truth

        path = self.root / f"{self.record['split']}.truth.h5"
        return Backdrop(self.split, Truth(path) if path.exists() else None)

    def html(self, caption: int) -> str:
        """The picture of a caption once a word, its most attended regions shaded."""
        from racg_pl.phrases import words_of

        rows = self.attention[str(caption)]
        first = np.array([row[0][1] for row in rows])
        shown = sorted(np.argsort(-first, kind="stable")[:WORDS].tolist())
        words = words_of(self.split, caption)
        items = [
            f"<li>{self._panel(int(self.split.image[caption]), rows[place])}<b>{html.escape(words[place])}</b> {first[place]:.2f}</li>"
            for place in shown
        ]
        return f'<ol class="hits">{"".join(items)}</ol>'

    def _panel(self, image: int, row: Sequence[Sequence[float]]) -> str:
        from racg_pl.attention_draw import Panel, draw_panel

        weights = np.zeros(int(self.split.store.counts[image]), np.float32)
        for region, weight in row:
            weights[int(region)] = weight
        figure = sheet(1.9, 1.9, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        draw_panel(axes, Panel(image, weights, None, ""), self.backdrop)
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(rendered(figure, "png", 150)).decode()}">'
