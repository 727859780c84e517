"""The LightningDataModule: region stores, captions and their parse, as batches. spaCy never runs here, only its stored parse is read."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from racg_pl.captions import CaptionStore, ParseStore
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.graphs import Regions, Sentences, semantic_relations
from racg_pl.text import Vocabulary, require_same


class Batch(NamedTuple):
    """B images and C of their captions. rows [B] and captions [C] are indices into the split; image [C] is a place in the batch."""

    rows: Tensor
    regions: Regions
    captions: Tensor
    sentences: Sentences
    image: Tensor


class Split(Dataset[Batch]):
    """One split of a data set, files checked against one another when it is opened.

    Args:
        root: folder of `{name}.h5`, `{name}.captions.h5`, `{name}.parse-{parser}.h5` and `vocab.json`.
    Raises: DataError where a file is missing, damaged or belongs to others.
    """

    def __init__(self, root: Path, name: str, parser: str, vocabulary: Vocabulary) -> None:
        self.store = RegionStore(root / f"{name}.h5")
        captions = CaptionStore(root / f"{name}.captions.h5")
        captions.require(self.store)
        path = root / f"{name}.parse-{parser}.h5"
        if not path.exists():
            raise DataError(
                f"{path}: expected the parse of {captions.path.name}, got no such file; run racg text {root} --parser {parser}"
            )
        self.parse = ParseStore(path)
        self.parse.require(captions)
        self.words = vocabulary.encode(self.parse.words)
        self.image: NDArray[np.int64] = captions.image
        self.texts = captions.texts
        order = np.argsort(self.image, kind="stable")
        self._captions_of = np.split(order, np.searchsorted(self.image[order], np.arange(1, len(self.store))))
        self.hashes = {"features": self.store.sha256, "captions": captions.sha256, "parse": self.parse.sha256}

    def __len__(self) -> int:
        return len(self.store)

    def captions_of(self, image: int) -> NDArray[np.int64]:
        """Indices of an image's captions, any number."""
        return self._captions_of[image]

    def __getitem__(self, index: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Batch:
        """The batch of the given images and captions."""
        rows, captions = index
        place = {row: position for position, row in enumerate(rows.tolist())}
        image = [place.get(row, -1) for row in self.image[captions].tolist()]
        return Batch(
            torch.from_numpy(rows),
            self.regions(rows),
            torch.from_numpy(captions),
            self.sentences(captions),
            torch.tensor(image),
        )

    def regions(self, rows: NDArray[np.int64]) -> Regions:
        arrays = self.store.read(rows, self.store.dtype)
        mask = torch.arange(self.store.regions) < torch.from_numpy(arrays.counts)[:, None]
        labels = torch.from_numpy(arrays.labels.astype(np.int64))
        features = torch.from_numpy(arrays.features)  # in half as many bytes to the device, where the model casts them
        return Regions(features, torch.from_numpy(arrays.boxes), labels, mask)

    def sentences(self, captions: NDArray[np.int64]) -> Sentences:
        """Padded to the longest. A caption without words is one unknown word."""
        start, stop = self.parse.offsets[captions], self.parse.offsets[captions + 1]
        lengths = torch.from_numpy(np.maximum(stop - start, 1))
        mask = torch.arange(int(lengths.max()) if len(captions) else 1) < lengths[:, None]
        words = torch.zeros(mask.shape, dtype=torch.int64)
        words[:, 0] = 1
        row, place = _flat(start, stop)
        words[row, place - start[row]] = torch.from_numpy(self.words[place])
        row, place = _flat(self.parse.edge_offsets[captions], self.parse.edge_offsets[captions + 1])
        edges = torch.from_numpy(self.parse.edges[place].astype(np.int64))
        return Sentences(words, semantic_relations(edges, torch.from_numpy(row), mask), mask)


def _flat(start: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of several ranges end to end, each with the number of its range."""
    lengths = stop - start
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) + np.repeat(start - np.cumsum(lengths) + lengths, lengths)


class TrainingBatches(Sampler[tuple[NDArray[np.int64], NDArray[np.int64]]]):
    """Each epoch the images with captions once, but for less than a last batch, with some of their captions; near twins together.

    All is decided by seed and epoch: `world` processes share each batch, so that their number changes none.
    """

    def __init__(self, split: Split, images: int, captions: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.split, self.images, self.captions, self.seed = split, images, captions, seed
        self.rank, self.world, self.epoch = rank, world, 0
        rows = np.array([row for row in range(len(split)) if len(split.captions_of(row))])
        groups = split.store.groups[rows] if split.store.groups is not None else np.full(len(rows), -1)
        alone = [rows[i : i + 1] for i in np.flatnonzero(groups < 0)]
        order = np.argsort(groups, kind="stable")[np.count_nonzero(groups < 0) :]
        together = np.split(rows[order], np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []
        self.units = alone + together
        # the batches of an epoch differ in number by how the groups fall; all epochs are as long as the images allow
        self.length = max(1, len(rows) // images)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        batches: list[list[NDArray[np.int64]]] = [[]]
        for unit in rng.permutation(len(self.units)):
            if batches[-1] and sum(map(len, batches[-1])) + len(self.units[unit]) > self.images:
                batches.append([])
            batches[-1].append(self.units[unit])
        rows = [row for batch in batches for unit in batch for row in unit.tolist()]
        captions = {row: rng.permutation(self.split.captions_of(row))[: self.captions] for row in rows}
        for number in range(self.length):
            share = self._share(batches[number % len(batches)])
            yield share, np.concatenate([captions[row] for row in share.tolist()])

    def _share(self, units: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """This process's images of a batch, near twins together unless a process would have none."""
        sizes = np.array([len(unit) for unit in units])
        middle = sizes.cumsum() - sizes / 2
        owner = (middle * self.world // sizes.sum()).astype(int)
        if len(set(owner.tolist())) < self.world:
            return np.array_split(np.concatenate(units), self.world)[self.rank]
        return np.concatenate([unit for unit, rank in zip(units, owner, strict=True) if rank == self.rank])


class EvaluationBatches(Sampler[tuple[NDArray[np.int64], NDArray[np.int64]]]):
    """Blocks of this process's images, then of its captions, shortest first so that a block carries little padding."""

    def __init__(self, split: Split, images: int, rank: int = 0, world: int = 1) -> None:
        none = np.zeros(0, np.int64)
        rows = np.arange(rank, len(split), world)
        captions = np.argsort(np.diff(split.parse.offsets), kind="stable")[rank::world]
        self.blocks = [(rows[i : i + images], none) for i in range(0, len(rows), images)]
        self.blocks += [(none, captions[i : i + 4 * images]) for i in range(0, len(captions), 4 * images)]

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        return iter(self.blocks)


class ReadAhead(DataLoader):
    """Without loader processes: a thread reads the next batch while a device that is not the processor works on this one."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return ahead(super().__iter__())  # which draws from torch's random numbers now, as ever


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same, each asked for while the one before is in use."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def require_alike(known: RegionStore, store: RegionStore) -> None:
    """Raise DataError unless two stores say the same kinds of things of a region: a model trained with labels and boxes ranks worse
    without them, and would not say why."""
    for one, two in zip(said_of_regions(known), said_of_regions(store), strict=True):
        if one != two:
            raise DataError(
                f"{store.path}: expected {one}, as in {known.path.name}, got {two}; use one extractor for all splits, and give its "
                f"boxes and labels with all or with none"
            )


def said_of_regions(store: RegionStore) -> tuple[str, str, str]:
    return (
        f"{store.dim} numbers a region",
        "no labels of objects" if store.labels is None else "labels of objects",
        "boxes" if store.boxes_known else "no boxes",
    )


class RetrievalData(LightningDataModule):
    """Converted or generated files of one folder, as `racg scenes`, `racg convert` and `racg text` write them.

    Args:
        root: the folder.  parser: whose parse to read: bundled, chain, or an installed pipeline's name.
        images: in a batch; several processes share it.  captions: of each image in a training batch, chosen anew each epoch.
        workers: processes that read; 0 reads in the training process.  seed: of the order of training.
        train, val, test: names of the splits.  classes: of the detector; 0 = as many as the labels reach. A checkpoint brings its own.
    """

    def __init__(
        self,
        root: str,
        parser: str = "bundled",
        images: int = 64,
        captions: int = 5,
        workers: int = 0,
        seed: int = 0,
        train: str = "train",
        val: str = "dev",
        test: str = "test",
        classes: int = 0,
    ) -> None:
        super().__init__()
        for option, value, least in (
            ("images", images, 2),
            ("captions", captions, 1),
            ("workers", workers, 0),
            ("classes", classes, 0),
        ):
            if value < least:
                raise DataError(f"data: expected {option} of at least {least}, got {value}")
        self.root, self.parser, self.images, self.captions = Path(root), parser, images, captions
        self.workers, self.seed, self.classes = workers, seed, classes
        self.names = {"fit": train, "validate": val, "test": test, "predict": test}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.load(self.root / "vocab.json")

    def split(self, stage: str) -> Split:
        """The split of a stage: fit, validate, test or predict. Opened once; parses of all splits must agree with training's."""
        if not hasattr(self, "_splits"):
            self._splits: dict[str, Split] = {}
        name = self.names[stage]
        if name not in self._splits:
            split = Split(self.root, name, self.parser, self.vocabulary)
            for other in self._splits.values():
                require_same(other.parse, split.parse, split.parse.path)
                require_alike(other.store, split.store)
            self._splits[name] = split
        return self._splits[name]

    # what the model needs to know, as scalars for its hyper-parameters

    @cached_property
    def _any(self) -> Split:
        exists = [stage for stage in ("fit", "validate", "test") if (self.root / f"{self.names[stage]}.h5").exists()]
        if not exists:
            raise DataError(
                f"{self.root}: expected {self.names['fit']}.h5, got no such file; run racg scenes or convert a data set first"
            )
        return self.split(exists[0])

    @property
    def feature_dim(self) -> int:
        return self._any.store.dim

    @property
    def objects(self) -> int:
        """Detector classes: those that are given, or that the store's labels reach; 0 where it has none."""
        store = self._any.store
        if store.labels is None:
            return 0
        reached = int(store.labels.max()) + 1
        if self.classes and reached > self.classes:
            raise DataError(
                f"{store.path}: expected labels of {self.classes} classes, got {reached}; "
                f"use the detector of the training data, or give data.classes"
            )
        return self.classes or reached

    @property
    def words(self) -> int:
        return len(self.vocabulary)

    @property
    def text_source(self) -> str:
        """Parser, version, scheme, rules of the semantic graph and vocabulary, on which a checkpoint and the data must agree."""
        parse = self._any.parse
        return f"{parse.parser} {parse.version} ({parse.scheme}), graph {parse.graph}, vocabulary {self.vocabulary.sha256[:12]}"

    def _loader(self, split: Split, sampler: Sampler) -> DataLoader:
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device.type
        return (ReadAhead if device != "cpu" and not self.workers else DataLoader)(
            split,
            batch_size=None,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=device == "cuda",
        )

    def _rank(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world": self.trainer.world_size} if self.trainer else {}

    def train_dataloader(self) -> DataLoader:
        split, world = self.split("fit"), self._rank().get("world", 1)
        if self.images < 2 * world:
            raise DataError(
                f"data: expected images of at least 2 for each of {world} processes, got {self.images}; raise data.images"
            )
        return self._loader(split, TrainingBatches(split, self.images, self.captions, self.seed, **self._rank()))

    def _evaluate(self, stage: str) -> DataLoader:
        split = self.split(stage)
        return self._loader(split, EvaluationBatches(split, self.images, **self._rank()))

    def val_dataloader(self) -> DataLoader:
        return self._evaluate("validate")

    def test_dataloader(self) -> DataLoader:
        return self._evaluate("test")

    def predict_dataloader(self) -> DataLoader:
        return self._evaluate("predict")
