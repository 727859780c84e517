"""`racg ground`: whether the region that a phrase's words attend to most is where a human, or the generator of Scenes, says it is.

Two measures: the region's centre lies in one of the phrase's boxes (edges included), and the region overlaps one of them by IoU ≥ 0.5.
Beside the model stand, from the same regions: chance, the expectation of a region drawn at random; the largest region (the first of
equals); where the store has scores of detections, the surest, whatever the phrase; and the best, whether any region would do. Every
phrase counts as one in all rows. One whose words are nowhere in its caption has no region, and counts as a miss of the model;
phrases.py says how the others are found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from racg_pl.attention import attention
from racg_pl.attention_draw import Backdrop, Panel, panels_figure, word_figure
from racg_pl.bootstrap import paired_bootstrap
from racg_pl.data import RetrievalData, Split
from racg_pl.errors import FILE, DataError, require_apart, require_file, writing
from racg_pl.figure import figure_path, save_figure
from racg_pl.ground_record import MEASURES, REGIONS, SCHEMA, asked, packed, read_record, spoken_of, unpacked
from racg_pl.phrases import FOUND, Phrase, phrases_file, read_phrases, scene_phrases
from racg_pl.progress import progress_bar
from racg_pl.readers.files import file_sha256
from racg_pl.scene_truth import Truth
from racg_pl.training import commit, load_module, read_checkpoint, require_trained_on, weights_hash
from racg_pl.written import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

IMAGES = 64  # of a block


def agreement(boxes: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether each region agrees with any of the true boxes, by MEASURES.

    Shapes: boxes [R,4] and truth [G,4] as x1 y1 x2 y2 → bool [R,2].
    """
    a, b = boxes.astype(np.float64)[:, None], truth.astype(np.float64)[None]
    centre = (a[..., :2] + a[..., 2:]) / 2
    inside: NDArray[np.bool_] = np.all((centre >= b[..., :2]) & (centre <= b[..., 2:]), axis=-1)
    both = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return np.stack([inside.any(axis=1), np.any(both >= 0.5 * union, axis=1)], 1)


def outcomes(
    boxes: NDArray[np.floating], agree: NDArray[np.bool_], attended: int, scores: NDArray[np.floating] | None
) -> NDArray[np.float64]:
    """What each of REGIONS is worth by each of MEASURES, in 0..1; NaN of the surest without scores.

    Args:
        boxes: [R,4].  agree: [R,2], see `agreement`.  attended: a region, or −1 where the phrase has no words.
        scores: [R], of detections.
    Returns: [5,2].
    """
    largest = (boxes.astype(np.float64)[:, 2:] - boxes.astype(np.float64)[:, :2]).prod(-1).argmax()
    own = agree[attended] if attended >= 0 else np.zeros(2)
    surest = np.full(2, np.nan) if scores is None else agree[scores.argmax()]
    return np.stack([own, agree.mean(0), agree[largest], surest, agree.any(0)]).astype(np.float64)


class Grounding(NamedTuple):
    """One phrase and the region that its words attend to most, −1 where it has no words. weights [R]: the mean of its words'.

    outcomes [5,2]: see `outcomes`.  margin: the largest weight of a region with its centre in a box less the largest of another's.
    """

    phrase: Phrase
    image: int
    region: int
    weights: NDArray[np.float32]
    outcomes: NDArray[np.float64]
    margin: float

    @property
    def success(self) -> bool:
        return bool(self.outcomes[0, 0])


def ground_phrase(
    phrase: Phrase,
    image: int,
    weights: NDArray[np.float32],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating] | None = None,
) -> Grounding:
    """weights: [W,R] of the phrase's caption, R real regions.  boxes: [R,4].  scores: [R], of detections."""
    agree = agreement(boxes, phrase.boxes)
    if not phrase.words:
        return Grounding(phrase, image, -1, np.zeros(len(boxes), np.float32), outcomes(boxes, agree, -1, scores), -1.0)
    mean = weights[list(phrase.words)].mean(0)
    region, inside = int(mean.argmax()), agree[:, 0]
    margin = float(mean[inside].max(initial=0) - mean[~inside].max(initial=0))
    return Grounding(phrase, image, region, mean, outcomes(boxes, agree, region, scores), margin)


def ground_phrases(model: torch.nn.Module, split: Split, phrases: Sequence[Phrase], progress: bool = False) -> list[Grounding]:
    """Every phrase against the attention of its caption's words, in the phrases' order."""
    of_image: dict[int, list[int]] = {}
    for number, phrase in enumerate(phrases):
        of_image.setdefault(int(split.image[phrase.caption]), []).append(number)
    images, found, sure = sorted(of_image), dict[int, Grounding](), split.store.scores
    with progress_bar("grounding", len(images), "images", progress) as advance:
        for start in range(0, len(images), IMAGES):
            rows = np.array(images[start : start + IMAGES])
            numbers = [number for row in rows.tolist() for number in of_image[row]]
            captions = np.unique([phrases[number].caption for number in numbers])
            batch = split[rows, captions]
            weights = attention(model, batch.regions, batch.sentences, batch.image).float().numpy()
            for number in numbers:
                phrase = phrases[number]
                row, place = int(split.image[phrase.caption]), int(np.searchsorted(captions, phrase.caption))
                real = int(split.store.counts[row])
                boxes = split.store.boxes[row, :real]
                scores = None if sure is None else sure[row, :real]
                found[number] = ground_phrase(phrase, row, weights[place, :, :real], boxes, scores)
            advance(len(rows))
    return [found[number] for number in range(len(phrases))]


class Grounded(NamedTuple):
    """What `ground` measured: the record that it wrote, every phrase, and the files, the record's first."""

    record: dict[str, Any]
    groundings: list[Grounding]
    written: list[Path]

    def table(self) -> Table:
        """All phrases, then those of each type: percent of phrases by measure and region."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        regions = [region for region in REGIONS if region in self.record["metrics"]["iou"]]
        made = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
        made.add_column("\nphrases", no_wrap=True)
        made.add_column("\nnumber", justify="right", min_width=6)
        for words in MEASURES.values():
            for place, region in enumerate(regions):
                made.add_column(f"{words if not place else ''}\n{region}", justify="right", overflow="fold")
        for place, (name, row) in enumerate([("all", self.record["metrics"]), *self.record["by_type"].items()]):
            cells = [f"{row[measure][region]:.1f}" for measure in MEASURES for region in regions]
            made.add_row(escape(name), f"{row['phrases']:,}", *cells, end_section=not place)
        return made

    def notes(self) -> str:
        """Intervals, and how phrases were found in their captions."""
        lines = ["attended, 95 % over pictures:"]
        for (measure, words), comma in zip(MEASURES.items(), (",", ""), strict=True):
            low, high = self.record["interval_95"][measure]
            lines[0] += f" {words} {low:.1f} to {high:.1f}{comma}"
        if against := self.record.get("against"):
            apart = [f"{words} {{:+.1f}} [{{:+.1f}}, {{:+.1f}}]".format(*against[name]) for name, words in MEASURES.items()]
            lines.append(f"less what {against['file']} attends to: {', '.join(apart)}")
        found = (f"{number:,} {FOUND[how]}" for how, number in self.record["found"].items())
        lines.append(f"phrases in their captions: {'; '.join(found)}")
        if any((repeated := self.record["repeated"]).values()):
            lines.append(
                f"{sum(repeated.values())} stand there more than once: {repeated['in order']} are listed as often and taken in order, "
                f"{repeated['together']} take the words of all their places"
            )
        return "\n".join(lines)


def summarise(groundings: Sequence[Grounding]) -> dict[str, Any]:
    """Percentages over all phrases and over those of each type, intervals over pictures, and how phrases were found."""
    scores = 100 * np.stack([item.outcomes for item in groundings])  # [S,5,2]
    known = [region for place, region in enumerate(REGIONS) if not np.isnan(scores[:, place]).any()]
    kinds = [[kind.strip() for kind in item.phrase.kind.split("/")] for item in groundings]

    def percent(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        means = scores[chosen].mean(0)
        of = {name: {region: float(means[REGIONS.index(region), k]) for region in known} for k, name in enumerate(MEASURES)}
        return {"phrases": int(chosen.sum()), **of}

    of_kind = {kind: np.array([kind in one for one in kinds]) for kind in {kind for one in kinds for kind in one}}
    of_kind = dict(sorted(of_kind.items(), key=lambda pair: (-pair[1].sum(), pair[0])))
    image = [item.image for item in groundings]
    spread = [paired_bootstrap(scores[:, 0, k], np.zeros(len(scores)), clusters=image) for k in range(len(MEASURES))]
    found, repeated = (Counter(getattr(item.phrase, name) for item in groundings) for name in ("found", "repeated"))
    return {
        "metrics": percent(np.ones(len(scores), bool)),
        "interval_95": {name: [one.low, one.high] for name, one in zip(MEASURES, spread, strict=True)},
        "by_type": {kind: percent(chosen) for kind, chosen in of_kind.items()},
        "found": {how: count for how in FOUND if (count := found[how]) or (how == "nowhere" and not found["generated"])},
        "repeated": {how: repeated[how] for how in ("in order", "together")},
    }


def record_against(path: Path, ours: dict[str, Any]) -> dict[str, Any]:
    """A record that `ground` wrote of another checkpoint; ours: what of this one's must be the same, see `asked`.

    Raises: DataError where it is none, or is of other phrases.
    """
    record = read_record(path)
    if asked(record) != asked(ours):
        said = ["split {:.12}, phrases {:.12}, captions {:.12} and {:,} phrases".format(*asked(one)) for one in (ours, record)]
        raise DataError(f"{path}: expected figures of {said[0]}, got those of {said[1]}; name one of the same")
    return record


def compared(groundings: Sequence[Grounding], other: dict[str, Any]) -> dict[str, list[float]]:
    """By measure: percent of phrases that attention gets right, less that of another record, and the 95 % over pictures."""
    image, (theirs, _) = [item.image for item in groundings], unpacked(other["hits"])
    ours = 100 * np.stack([item.outcomes[0] for item in groundings])
    return {name: [*paired_bootstrap(ours[:, k], theirs[:, k], clusters=image)] for k, name in enumerate(MEASURES)}


def examples(groundings: Sequence[Grounding]) -> dict[str, list[Grounding]]:
    """Successes and failures, each the first, the median and the last by margin, the widest first; equals by their order."""
    found = {}
    for name, success in (("success", True), ("failure", False)):
        order = [item for item in groundings if item.success is success and item.phrase.words]
        order.sort(key=lambda item: -abs(item.margin))
        found[name] = [order[place] for place in sorted({0, len(order) // 2, len(order) - 1} if order else ())]
    return found


def phrase_figure(split: Split, groundings: Sequence[Grounding], backdrop: Backdrop) -> Figure:
    """The phrases of `examples`: the regions that their words attend to, and the true boxes."""
    rows = []
    for name, chosen in examples(groundings).items():
        heading = (
            f"{name}: the region attended to most has its centre {'in a' if name == 'success' else 'outside every'} dashed box"
        )
        panels = [
            Panel(
                item.image,
                item.weights,
                item.phrase.boxes,
                f"{item.phrase.text}  {item.weights.max():.2f}",
                split.texts[item.phrase.caption],
            )
            for item in chosen
        ]
        if panels:
            rows.append((heading, panels))
    return panels_figure(rows, backdrop)


def caption_weights(model: torch.nn.Module, split: Split, captions: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """The attention of each caption's words to the regions of its own picture, [W,R] by caption."""
    numbers = np.array(list(dict.fromkeys(captions)))
    batch = split[np.unique(split.image[numbers]), numbers]
    weights = attention(model, batch.regions, batch.sentences, batch.image).float().numpy()
    lengths = np.diff(split.parse.offsets)[numbers]
    return {int(number): weights[place, : max(1, lengths[place])] for place, number in enumerate(numbers)}


def ground(
    checkpoint: Path,
    root: Path,
    split: str = "test",
    phrases: Path | None = None,
    out: Path | None = None,
    against: Path | None = None,
    figure: Path | None = None,
    words: Path | None = None,
    pictures: Path | None = None,
) -> Grounded:
    """Measure a checkpoint, and write the record and, where asked for, figures.

    Args:
        checkpoint: of `racg fit`.  root, split: of the data set, parsed as in training.
        phrases: a file as in phrases.py, or a folder of Flickr30k Entities; by default that of `spoken_of`.
        out: of the record; by default ground_SPLIT_CKPT.json in the folder of the run.
        against: that of another checkpoint, to compare with.
        figure: picture file of phrases, `words`: of the words of whole captions; successes and failures, see attention_draw.py.
        pictures: folder of image files named by their ids, to draw on.
    Raises: DataError where a file is missing, damaged or belongs to others, or where the method's words attend to no regions.
    """
    for path in (out, figure, words):
        require_file(path)
    for path in (figure, words):
        if path is not None:
            figure_path(path)
    content = read_checkpoint(checkpoint)
    trained = content["hyper_parameters"]
    parser = trained.get("text_source", "").partition(" ")[0] or "bundled"
    data = RetrievalData(str(root), parser=parser, val=split, classes=trained.get("objects", 0))
    opened = data.split("validate")
    require_trained_on(checkpoint, trained, data)
    truth_file = root / f"{split}.truth.h5"
    truth = Truth(truth_file) if truth_file.exists() else None
    source = phrases or spoken_of(root, split)
    generated = truth is not None and source == truth_file
    raw = b"" if generated else phrases_file(source, opened)
    listed = scene_phrases(cast(Truth, truth), opened) if generated else read_phrases(source, opened, raw)
    listed.sort(key=lambda phrase: int(opened.image[phrase.caption]))  # those of an image side by side
    if (figure or words) and not any(phrase.words for phrase in listed):
        raise DataError(
            f"{source}: expected phrases that stand in their captions, got none to draw; leave out --figure and --words"
        )
    backdrop = Backdrop(opened, truth, pictures)
    path = out or checkpoint.absolute().parent.parent / f"ground_{split}_{checkpoint.stem}.json"
    read = [
        checkpoint,
        source,
        *([against] if against else []),
        root / "vocab.json",
        *root.glob("*.h5"),
        *backdrop.files.values(),
    ]
    require_apart([path, *(drawn for drawn in (figure, words) if drawn is not None)], read)
    same = {
        "split": split,
        "data": opened.hashes | {"vocabulary": data.vocabulary.sha256},
        "phrases": {
            "file": str(source),
            "sha256": file_sha256(source) if generated else hashlib.sha256(raw).hexdigest(),
        },
    }
    other = None if against is None else record_against(against, same | {"metrics": {"phrases": len(listed)}})
    model = cast(torch.nn.Module, load_module(checkpoint).model)
    groundings = ground_phrases(model, opened, listed, progress=True)
    record = {
        "schema": SCHEMA,
        "checkpoint": str(checkpoint),
        "weights": weights_hash(content["state_dict"]),
        "method": type(model).__name__,
        "commit": commit(),
        **same,
        **summarise(groundings),
        "hits": packed(np.stack([item.outcomes[0] for item in groundings]) > 0, [item.image for item in groundings]),
    }
    if against is not None and other is not None:
        record["against"] = {"file": str(against), "weights": other["weights"], **compared(groundings, other)}
    with writing(path, f"{FILE} by --out"):
        write_json(path, record)
    if figure is not None:
        save_figure(phrase_figure(opened, groundings, backdrop), figure)
    if words is not None:
        shown = [chosen[len(chosen) // 2].phrase.caption for chosen in examples(groundings).values() if chosen]
        save_figure(word_figure(opened, caption_weights(model, opened, shown), backdrop), words)
    return Grounded(record, groundings, [path, *(drawn for drawn in (figure, words) if drawn is not None)])
