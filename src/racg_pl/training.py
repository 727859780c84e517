"""`racg fit|validate|test|predict`: LightningCLI over RACGModule and RetrievalData, and the files that a run leaves behind."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentError
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from racg_pl.data import RetrievalData
from racg_pl.errors import DataError
from racg_pl.hdf5 import ContentHash, one_line
from racg_pl.memory import peak_mb
from racg_pl.module import RACGModule
from racg_pl.scoring import MEMORY_MB
from racg_pl.two_stage import CANDIDATES, PooledIndex
from racg_pl.written import replacing, write_json

FROM_DATA = ("text_source", "feature_dim", "words", "objects")
TOP = 10  # matches that predict lists


class LastCheckpoint(ModelCheckpoint):
    """FOLDER/last.ckpt at the end of every epoch, where `--ckpt_path last` goes on: `save_last` of the callback that keeps the best
    writes it only where an epoch was the best so far."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False)


class RACGCommand(LightningCLI):
    """Adds `--out FOLDER`, where a run keeps its checkpoints, logs and results, and links what the model needs to know of the data."""

    datamodule: RetrievalData
    model: RACGModule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default="runs/racg", help="folder of the run: checkpoints, logs, results")
        parser.add_argument(
            "--save_scores", type=bool, default=False, help="test: keep the score matrix as OUT/test_scores.npy"
        )
        parser.add_argument(
            "--score_memory_mb",
            type=int,
            default=MEMORY_MB,
            help="evaluation: memory beyond the encoded items; of a larger matrix of scores only ranks and best matches are kept",
        )
        parser.add_argument(
            "--two_stage",
            type=int,
            default=0,
            help=f"test: besides, score only so many candidates a query, which pooled embeddings find by FAISS ({CANDIDATES} is usual)",
        )
        parser.set_defaults({"seed_everything": 0})
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("out", "trainer.default_root_dir")

    def before_instantiate_classes(self) -> None:
        """Loggers write into OUT, whatever folder the configuration gives them."""
        loggers = self._get(self.config, "trainer").logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if "save_dir" in (getattr(logger, "init_args", None) or {}):
                logger.init_args.save_dir = str(self.out)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.out / "checkpoints")
        if self.subcommand == "fit" and trainer.checkpoint_callback is not None:
            trainer.callbacks.append(LastCheckpoint(self.out / "checkpoints"))  # type: ignore[attr-defined]
        return trainer

    @property
    def out(self) -> Path:
        return Path(self._get(self.config, "out"))

    def _parse_ckpt_path(self) -> None:
        """Lightning takes the model's options from the checkpoint; see first that it is one."""
        config = self.config[self.config.subcommand]
        path = str(Path(config.out, "checkpoints", "last.ckpt")) if config.ckpt_path == "last" else config.ckpt_path
        self.checkpoint = None if path is None else Path(path)
        self.trained = {} if path is None else trained_options(Path(path))
        super()._parse_ckpt_path()
        data = self.config[self.config.subcommand].data  # parsed anew
        if path is not None and not data.classes:  # a split alone may reach fewer than the model knows
            data.classes = self.trained.get("objects", 0)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
            self.model.score_memory_mb = self._get(self.config, "score_memory_mb")
            self.model.two_stage = self._get(self.config, "two_stage")
        except (ValueError, MisconfigurationException) as error:  # how torch and Lightning refuse a value
            if isinstance(error, DataError):
                raise
            raise DataError(f"configuration: {one_line(error)}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        """Whatever is wrong with the files is said before anything is written."""
        self.started = time.monotonic()
        if subcommand == "test" and self.model.two_stage:
            if self.model.two_stage < 0 or self.trainer.world_size > 1:
                raise DataError(
                    f"two_stage: expected a number of candidates and one process, got {self.model.two_stage} and "
                    f"{self.trainer.world_size} processes; choose {CANDIDATES}, and --trainer.devices 1"
                )
            options = self.model.options  # says now what is missing
            PooledIndex(int(options.aggregation if options.method == "racg" else not options.method.startswith("scan")))
        if subcommand != "fit" and self.checkpoint is None:
            raise DataError(f"{subcommand}: expected a trained model, got none; name a checkpoint of racg fit by --ckpt_path")
        stages = ("fit", "validate") if subcommand == "fit" and self.trainer.limit_val_batches else (subcommand,)
        for stage in stages:
            self.datamodule.split(stage)
        self.require_whole(stages[-1])
        if subcommand == "fit" and self.trainer.max_epochs == self.trainer.max_steps == -1:
            raise DataError(
                "trainer: expected max_epochs or max_steps, since the learning rate falls towards the end of a training, got neither; "
                "give one, beside max_time too"
            )
        if subcommand == "test" and self._get(self.config, "save_scores"):
            split, budget = self.datamodule.split("test"), self.model.score_memory_mb
            if (need := len(split) * len(split.texts)) > budget << 18:  # of four bytes
                raise DataError(
                    f"save_scores: expected a matrix of scores within --score_memory_mb {budget}, got {need:,} scores; "
                    f"raise it to {-(-need >> 18)}"
                )
        if self.checkpoint is not None:
            require_trained_on(self.checkpoint, self.trained, self.datamodule)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.out}: expected a folder to write to, got: {one_line(error)}; choose another --out"
            ) from error
        try:
            super()._run_subcommand(subcommand)
        except SystemExit as error:  # how Lightning ends over Ctrl-C
            if not self.trainer.interrupted:
                raise
            last = self.out / "checkpoints" / "last.ckpt"
            if subcommand == "fit" and last.is_file() and self.trainer.is_global_zero:
                print(f"racg fit: the last whole epoch is in {last}; with --ckpt_path last it goes on there", file=sys.stderr)
            raise KeyboardInterrupt from error
        except RuntimeError as error:
            if "Error(s) in loading state_dict" not in str(error):
                raise
            raise DataError(
                f"{self.checkpoint}: expected the options of the model that it holds, got others: {one_line(error)}"
            ) from error

    def require_whole(self, stage: str) -> None:
        """Raises: DataError where only some batches of a split would be evaluated, but in Lightning's own look whether all runs."""
        option = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}.get(stage)
        share = 1.0 if option is None or self.trainer.fast_dev_run else getattr(self.trainer, option)  # type: ignore[attr-defined]
        if share and not (share == 1 and isinstance(share, float)):
            none = " or 0 for none," if stage == "validate" else ""  # of a training
            raise DataError(
                f"trainer.{option}: expected 1.0, since recalls are those of a whole split,{none} got {share}; leave it out"
            )

    def after_fit(self) -> None:
        trainer, wanted = self.trainer, self.trainer.limit_val_batches and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.model.evaluated is None and wanted and trainer.is_global_zero:
            print(
                f"racg fit: {self.datamodule.names['validate']} was not evaluated, since training ended before that came due "
                f"(trainer.check_val_every_n_epoch {trainer.check_val_every_n_epoch}); the weights are in last.ckpt",
                file=sys.stderr,
            )
        keeper = self.trainer.checkpoint_callback
        best = keeper.best_model_score if isinstance(keeper, ModelCheckpoint) else None
        self.report("validate", "fit.json", best_dev_rsum=None if best is None else best.item())

    def after_validate(self) -> None:
        self.report("validate", "validate.json")

    def after_test(self) -> None:
        if (found := self.model.evaluated) is None:  # fast_dev_run ranks nothing
            return
        self.report("test", "test.json", **({} if found.two_stage is None else {"two_stage": found.two_stage}))
        if self._get(self.config, "save_scores") and self.trainer.is_global_zero and found.scores is not None:
            save_array(self.out / "test_scores.npy", found.scores.numpy())

    def after_predict(self) -> None:
        """OUT/predictions.jsonl: for every image and caption, the best matches with their scores, best first."""
        split, evaluated = self.datamodule.split("predict"), self.model.evaluated
        if not self.trainer.is_global_zero or evaluated is None:
            return
        if evaluated.scores is not None:
            found = [tuple(rows.topk(min(TOP, rows.shape[1]))) for rows in (evaluated.scores, evaluated.scores.T)]
        elif evaluated.ranking is not None:
            found = [evaluated.ranking.captions, evaluated.ranking.images]
        path = self.out / "predictions.jsonl"
        with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            for kind, best in zip(("image", "caption"), found, strict=True):
                for query, (values, indices) in enumerate(zip(*(part.tolist() for part in best), strict=True)):
                    names = [split.texts[i] if kind == "image" else split.store.ids[i] for i in indices]
                    matches = [[name, round(value, 4)] for name, value in zip(names, values, strict=True)]
                    asked = split.store.ids[query] if kind == "image" else split.texts[query]
                    print(json.dumps({kind: asked, "matches": matches}, ensure_ascii=False), file=file)
        print(path)

    def report(self, stage: str, name: str, **more: Any) -> None:
        """One JSON of a run: metrics, configuration, seed, commit, hashes of data and weights, parameters, wall time."""
        evaluated = self.model.evaluated
        if not self.trainer.is_global_zero or evaluated is None:
            return
        config = self.config[self.config.subcommand]
        record = {
            "split": self.datamodule.names[stage],
            "metrics": evaluated.metrics,
            **more,
            "seed": config.seed_everything,
            "commit": commit(),
            "data": self.datamodule.split(stage).hashes | {"vocabulary": self.datamodule.vocabulary.sha256},
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "weights": weights_hash(self.model.state_dict()),
            "wall_time_s": round(time.monotonic() - self.started, 1),
            "cost": {"peak_mb": round(peak_mb(), 1), "pairs_per_s": round(evaluated.pairs_per_s)},
            "checkpoint": config.ckpt_path,
            "config": {"data": plain(config.data), "model": dict(self.model.options), "trainer": plain(config.trainer)},
        }
        write_json(self.out / name, record)
        print(self.out / name)


def trained_options(path: Path) -> dict[str, Any]:
    """The hyper-parameters of a checkpoint. Raises: DataError unless it is a checkpoint of `racg fit`."""
    return read_checkpoint(path)["hyper_parameters"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds. Nothing in the file is run: it holds tensors and plain values, or is refused.

    Raises: DataError unless it is a checkpoint of `racg fit`.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint of racg fit, got no such file; train one by racg fit")
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if missing := {"state_dict", "pytorch-lightning_version", "hyper_parameters"} - content.keys():
            raise KeyError(*missing)
        return content
    except Exception as error:  # over a file that is none, torch raises almost any
        raise DataError(
            f"{path}: expected a checkpoint of racg fit, got a file that is damaged, of another program, or holds code "
            f"({type(error).__name__}); copy it again or train a new one"
        ) from error


def require_trained_on(checkpoint: Path, trained: Mapping[str, Any], data: RetrievalData) -> None:
    """Raise DataError unless data, parser and vocabulary are those of a checkpoint's hyper-parameters."""
    for name in FROM_DATA:
        if trained.get(name) != getattr(data, name):
            raise DataError(
                f"{checkpoint}: expected data with {name} {trained.get(name)!r}, with which it was trained, "
                f"got {getattr(data, name)!r} in {data.root}; use its data set and parser"
            )


def load_module(checkpoint: Path) -> RACGModule:
    """The module of a checkpoint of `racg fit`, on the CPU, in evaluation mode. Raises: DataError where another version wrote it."""
    try:
        return RACGModule.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{checkpoint}: expected a model of this version of racg_pl, got: {one_line(error)}; read it with its own version"
        ) from error


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 of the weights of a model by name: the same wherever and whenever they were saved."""
    content = ContentHash(kind="racg_pl.weights/1")
    for name in sorted(state):
        weight = state[name].detach().cpu().contiguous()
        content.add(name, f"{weight.dtype} {list(weight.shape)}", weight.reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def plain(config: Any) -> Any:
    """A jsonargparse namespace as dictionaries."""
    return config.as_dict() if hasattr(config, "as_dict") else config


def commit() -> str:
    """The commit of the working folder, with "+" where files differ from it; "" outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def save_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's log tells a user of racg anything."""
    known = (
        "Seed set to",
        "GPU available: False",
        "TPU available: False",
        "Loading `train_dataloader`",
        "`Trainer.fit` stopped",
        "💡",
    )
    return not record.getMessage().startswith(known)


def _switches(arguments: Sequence[str]) -> list[str]:
    """`--save-scores` as `--save_scores=true`: jsonargparse knows neither the dash nor a switch that can be turned off in YAML."""
    found = list[str]()
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--save-scores", "--save_scores"):
            alone = not value and arguments[place + 1 : place + 2] not in (["true"], ["false"])
            argument = "--save_scores" + ("=true" if alone else f"={value}" if value else "")
        found.append(argument)
    return found


def run(arguments: Sequence[str]) -> None:
    """Run one of Lightning's verbs. Raises: DataError for a user's mistake, SystemExit where it asked for help."""
    arguments = _switches(arguments)
    if agent := os.environ.get("WANDB_SWEEP_ID"):  # W&B's agent has started this run, and waits for what it says
        arguments += ["--out", f"runs/sweeps/{agent}/{os.environ.get('WANDB_RUN_ID', 'run')}"]
    else:
        os.environ.setdefault("WANDB_MODE", "offline")
    for message in (".*LightningCLI's args parameter.*", ".*does not have many workers.*", ".*LeafSpec.*", ".*tensorboardX.*"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    for name in ("lightning.fabric.utilities.seed", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).addFilter(is_news)
    said: dict[str, Any] = {"exit_on_error": False}  # rather than a hundred lines of usage before the one that matters
    try:
        RACGCommand(
            RACGModule,
            RetrievalData,
            args=arguments,
            parser_kwargs=said | dict.fromkeys(RACGCommand.subcommands(), said),
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False, "gradient_clip_val": 2.0, "num_sanity_val_steps": 0},
        )
    except ArgumentError as error:
        raise DataError(f"{one_line(error)}; racg {arguments[0]} --help lists what there is") from error
