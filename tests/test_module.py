"""Training and evaluation: the same again, resumed, on two processes, and without the command line."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything

from conftest import SMALL_MODEL, by_two_processes, small
from racg_pl import native
from racg_pl.cli import main
from racg_pl.data import RetrievalData
from racg_pl.errors import DataError
from racg_pl.graphs import Regions
from racg_pl.losses import triplet
from racg_pl.metrics import recalls
from racg_pl.module import RACGModule
from test_model import SWITCHES


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


class Listener(Callback):
    """Keeps what a step logs, and the learning rate."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.steps.append(values | {"lr": trainer.optimizers[0].param_groups[0]["lr"]})


class CtrlC(Callback):
    """Somebody ends training in its second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


class StopAfterOne(Callback):
    """Breaks training off after its first epoch, with the schedule of all."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def fitted(root: Path, out: Path, steps: int = 4, images: int = 8, **options: Any) -> tuple[RACGModule, list[dict[str, float]]]:
    """A small model after some steps, and what each step logged."""
    seed_everything(0, verbose=False)
    data = RetrievalData(str(root), "chain", images=images)
    known = {name: getattr(data, name) for name in ("feature_dim", "words", "objects", "text_source")}
    module, listener = RACGModule(**known, **(SMALL_MODEL | options)), Listener()
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, default_root_dir=out, callbacks=[listener], limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module, listener.steps


# ---- training ----


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_training_reduces_the_loss(scenes: Path, tmp_path: Path, loss: str):
    _, steps = fitted(
        scenes, tmp_path, 20, loss=loss, lr=5e-3, dropout=0.0, hard_after=1.0, reconstruction_weight=0.0, word_std=0.5
    )
    assert all(torch.tensor(list(step.values())).isfinite().all() for step in steps)
    first, last = (sum(step["loss"] for step in part) for part in (steps[:4], steps[-4:]))
    assert last < 0.9 * first


@pytest.mark.parametrize("off", [*SWITCHES, "all"])
def test_a_model_without_a_part_trains(scenes: Path, tmp_path: Path, off: str):
    switches = dict.fromkeys(SWITCHES if off == "all" else [off], False)
    module, steps = fitted(scenes, tmp_path, 2, **switches)
    assert steps[-1]["loss"] > 0
    assert ("loss/reconstruction" in steps[-1]) == (off not in ("reconstruction", "all"))
    assert all(weight.isfinite().all() for weight in module.parameters())


def test_hard_negatives_join_after_their_share_of_the_steps(scenes: Path, tmp_path: Path):
    _, steps = fitted(scenes, tmp_path, 4, hard_after=0.5)
    assert ["loss/hardest" in step for step in steps] == [False, False, True, True]
    assert "loss/hardest" not in fitted(scenes, tmp_path, 2, hard_after=1.0)[1][-1]


def test_the_parts_of_the_loss_add_up(scenes: Path, tmp_path: Path):
    step = fitted(scenes, tmp_path, 2, hard_after=0.0, term_weight=0.5)[1][-1]
    parts = {name for name in step if name.startswith("loss/")}
    assert parts == {"loss/all", "loss/terms", "loss/reconstruction", "loss/hardest"}
    assert step["loss"] == pytest.approx(sum(step[name] for name in parts), rel=1e-5)
    module, without = fitted(scenes, tmp_path, 1, reconstruction_weight=0.0)
    assert {name for name in without[-1] if name.startswith("loss/")} == {"loss/all"}
    assert module.model.decode_word is None  # or DDP waits for gradients that never come


def test_separate_embeddings_have_a_loss_of_their_own(scenes: Path):
    """Neither the matched graphs nor the embeddings get a gradient from the other's loss."""
    data = RetrievalData(str(scenes), "chain", images=6, captions=2)
    options = SMALL_MODEL | {"dropout": 0.0, "word_std": 0.5, "reconstruction_weight": 0.0}
    module = RACGModule(data.feature_dim, data.words, data.objects, separate_embeddings=True, **options).double()
    batch = next(iter(data.train_dataloader()))
    batch = batch._replace(regions=Regions(*(part.double() if part.is_floating_point() else part for part in batch.regions)))
    parts, scores, _ = module.losses(batch, hardest=False)
    order, model = batch.sentences.mask.sum(1).argsort(stable=True), module.model
    images = model.encode_image(batch.regions)
    terms = model.similarities(images, model.encode_text(batch.sentences.take(order, batch.sentences.words.shape[1])))
    torch.testing.assert_close(scores, model.combine(terms))
    positive = batch.image[order] == torch.arange(6)[:, None]
    embedded = model.mix[2] * terms[2]
    alone = module.base_loss(embedded, positive)
    torch.testing.assert_close(parts["loss/all"], alone + module.base_loss(scores - embedded, positive))
    weights = list(model.embedder.parameters())
    ours, theirs = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in (parts["loss/all"], alone))
    torch.testing.assert_close(ours, theirs)
    assert max(gradient.abs().max() for gradient in ours) > 1e-6


def test_a_step_is_what_its_captions_are_one_by_one(scenes: Path):
    """Sorting, packing and chunks of captions change neither the scores nor a gradient, in float64; all related words are hidden."""
    data = RetrievalData(str(scenes), "chain", images=6, captions=2)
    options = SMALL_MODEL | {"dropout": 0.0, "hide": 1.0, "word_std": 0.5}
    module = RACGModule(data.feature_dim, data.words, data.objects, **options).double()
    batch = next(iter(data.train_dataloader()))
    batch = batch._replace(regions=Regions(*(part.double() if part.is_floating_point() else part for part in batch.regions)))
    parts, scores, _ = module.losses(batch, hardest=True)
    lengths = batch.sentences.mask.sum(1)
    assert len(lengths.unique()) > 2
    order, model = lengths.argsort(stable=True), module.model
    images = model.encode_image(batch.regions)
    sentences, _ = model.hide_words(batch.sentences)
    alone = [model.encode_text(sentences.take(slice(k, k + 1), int(lengths[k]))) for k in order.tolist()]
    pairs = [[model.score_pairs(images.take(slice(row, row + 1)), one)[0] for one in alone] for row in range(6)]
    want = torch.stack([torch.stack(row) for row in pairs])
    torch.testing.assert_close(scores, want, atol=1e-10, rtol=1e-8)
    positive = batch.image[order] == torch.arange(6)[:, None]
    loss = module.base_loss(want, positive)
    weights = [weight for name, weight in module.named_parameters() if "decode" not in name]
    ours = torch.autograd.grad(parts["loss/all"], weights, retain_graph=True, allow_unused=True)
    for one, two in zip(ours, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-4)
    assert parts["loss/reconstruction"] > 0


def test_the_learning_rate_rises_and_falls(scenes: Path, tmp_path: Path):
    rates = [step["lr"] for step in fitted(scenes, tmp_path, 10, images=2, warmup=0.4, lr=1e-3)[1]]
    assert rates[:4] == pytest.approx([5e-4, 7.5e-4, 1e-3, 1e-3])  # that of the step to come
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


def test_weight_decay_is_for_matrices(scenes: Path, tmp_path: Path):
    module, _ = fitted(scenes, tmp_path, 1)
    optimizer = module.configure_optimizers()["optimizer"]
    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0)
    assert {weight.dim() > 1 for weight in decayed["params"]} == {True}
    assert {weight.dim() > 1 for weight in others["params"]} == {False}
    counted = sum(len(group["params"]) for group in optimizer.param_groups)
    assert counted == len([weight for weight in module.parameters() if weight.requires_grad])
    assert optimizer.defaults["fused"]


def test_collapse_stops_training_in_words(monkeypatch: pytest.MonkeyPatch):
    """At the second look in a row, 50 steps apart, at which all scores are alike."""
    module, now = RACGModule(4, 5, 6, **SMALL_MODEL, warmup=0.05), {"step": 0}
    monkeypatch.setattr(RACGModule, "global_step", property(lambda _: now["step"]))
    monkeypatch.setattr(RACGModule, "trainer", property(lambda _: SimpleNamespace(estimated_stepping_batches=1000)))
    alike, apart = torch.zeros(4, 8), torch.randn(4, 8)

    def look(step: int, scores: torch.Tensor) -> None:
        now["step"] = step
        module.watch(scores, triplet(scores, torch.arange(8) // 2 == torch.arange(4)[:, None], hardest=True))

    for step, scores in (
        (0, alike),
        (50, alike),
        (100, alike),
        (101, alike),
        (150, apart),
        (200, alike),
        (233, alike),
        (250, apart),
    ):
        look(step, scores)  # in the warm-up scores are alike anyway; then never twice in a row
    look(300, alike)
    with pytest.raises(DataError, match="step 350: training has collapsed"):
        look(350, alike)


@pytest.mark.parametrize("precision", ["32-true", "32", "bf16-mixed"])
def test_precision_is_chosen_by_the_trainer_alone(scenes: Path, tmp_path: Path, precision: str):
    """With clipped gradients, as the command line trains."""
    assert main(["fit", *small(scenes, tmp_path, precision=precision)]) == 0
    assert 0 <= json.loads((tmp_path / "fit.json").read_text())["metrics"]["rsum"] <= 600


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            "--trainer.val_check_interval=100",
            "`val_check_interval` (100) must be less than or equal to the number of the training",
        ),
        ("--seed_everything=-1", "-1 is not in bounds"),
    ],
)
def test_what_lightning_refuses_is_said_in_one_line(option: str, says: str, scenes: Path, tmp_path: Path, capsys):
    assert main(["fit", *small(scenes, tmp_path, option)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"racg: configuration: {says}")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "transformer-engine", "null"])
def test_a_precision_in_which_nodes_are_not_compared(
    precision: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    says = f"trainer.precision: expected one of 32-true, 64-true, 16-mixed, bf16-mixed, got {precision}; leave it out for the first"
    (tmp_path / "precise.yaml").write_text(f"trainer: {{precision: {precision}}}")
    for file, given in (
        ("", f"--trainer.precision={precision}"),
        (f"{tmp_path / 'precise.yaml'}: ", f"--config={tmp_path / 'precise.yaml'}"),
    ):
        if precision != "null" or not file:  # in a file it is the default
            assert main(["fit", *small(scenes, tmp_path / "out"), given]) == 2
            assert capsys.readouterr().err.splitlines()[-1] == f"racg: {file}{says}"


@pytest.mark.parametrize(
    "options", [(), ("--model.method=sgr", "--model.relation_dim=256", "--model.heads=8")], ids=["racg", "sgr"]
)
def test_float64_with_and_without_a_compiler(options, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert main(["fit", *small(scenes, tmp_path, *options, precision="64-true")]) == 0
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert weights["model.feature.weight"].dtype == torch.float64

    def scores(out: str) -> np.ndarray:
        given = f"--ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}", "--save_scores=true"
        assert main(["test", *small(scenes, tmp_path / out, *options, *given, precision="64-true")]) == 0
        return np.load(tmp_path / out / "test_scores.npy")

    compiled = scores("compiled")
    monkeypatch.setattr(native, "available", lambda tensor: False)
    np.testing.assert_allclose(scores("plain"), compiled, rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [["--trainer.overfit_batches", "0.5"], ["--trainer.overfit_batches=2"]])
def test_batches_that_are_overfitted_are_no_split(given: list[str], scenes: Path, tmp_path: Path, capsys):
    assert main(["fit", *small(scenes, tmp_path), *given]) == 2
    assert "racg: trainer.overfit_batches: expected none" in capsys.readouterr().err
    assert main(["fit", *small(scenes, tmp_path), "--trainer.overfit_batches=0.0"]) == 0


@pytest.mark.parametrize("option", ["model: {lr: null}", "model: {multihead: null}", "data: {images: null}", "model: {loss: }"])
def test_null_where_none_may_be(option: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """jsonargparse lets it through in a file, where a switch would be off."""
    (tmp_path / "null.yaml").write_text(option)
    assert main(["fit", *small(scenes, tmp_path / "out", f"--config={tmp_path / 'null.yaml'}")]) == 2
    part, name = option.strip("}").replace("{", "").split(": ")[:2]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"racg: {tmp_path / 'null.yaml'}: {part}.{name}: expected a value, got null; leave it out for its default"


def test_null_where_it_means_something(scenes: Path, tmp_path: Path):
    (tmp_path / "null.yaml").write_text("model: {neighbours: null}\ntrainer: {gradient_clip_val: null}\n")
    assert main(["fit", *small(scenes, tmp_path / "out", f"--config={tmp_path / 'null.yaml'}")]) == 0


def test_an_error_of_our_own_keeps_its_traceback(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(RACGModule, "losses", broken)
    with pytest.raises(ValueError, match="a mistake of ours"):
        main(["fit", *small(scenes, tmp_path)])


def test_a_loss_that_is_not_finite_stops_training_in_words(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("racg_pl.module.RACGModule.base_loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(DataError, match=r"step 0: expected a finite loss, got nan; lower model\.lr"):
        fitted(scenes, tmp_path, 2)


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.0}, {"lr": -1.0}, {"margin": 0.0}, {"warmup": 2.0}, {"dim": -8}, {"temperature": 0.0}]
    + [
        {name: -0.1}
        for name in ("weight_decay", "hard_after", "hard_weight", "term_weight", "reconstruction_weight", "bert_lr")
    ],
)
def test_numbers_that_make_no_training(options: dict):
    with pytest.raises(DataError, match=next(iter(options))):
        RACGModule(4, 5, 6, **(SMALL_MODEL | options))


# ---- checkpoints ----


def test_a_checkpoint_holds_scalars_and_loads_without_the_command_line(run: Path):
    path = run / "checkpoints" / "last.ckpt"
    options = torch.load(path, weights_only=True)["hyper_parameters"]
    ours = {name: value for name, value in options.items() if not name.startswith("_")}
    assert all(isinstance(value, int | float | str | bool | None) for value in ours.values())
    assert set(SMALL_MODEL.items()) <= set(ours.items())
    module = RACGModule.load_from_checkpoint(path)
    assert {name: module.hparams[name] for name in ours} == ours
    state = torch.load(path, weights_only=True)["state_dict"]
    assert weights_hash(module.state_dict()) == weights_hash(state)


def test_a_checkpoint_loads_where_there_is_no_command_line(run: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("jsonargparse", "lightning.pytorch.cli"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    module = RACGModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert module.model.heads == SMALL_MODEL["heads"]


def arguments(root: Path, out: Path, *callbacks: str, more: tuple[str, ...] = ()) -> list[str]:
    keep = ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.save_last=true"]
    return [
        "fit",
        *small(root, out, *keep, *(f"--trainer.callbacks+={name}" for name in callbacks), *more, epochs=2, limit_val_batches=0),
    ]


def last(out: Path) -> str:
    return weights_hash(torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


def test_the_same_seed_gives_the_same_weights(scenes: Path, run: Path, tmp_path: Path):
    for folder, seed in ((tmp_path / "same", 0), (tmp_path / "other", 1)):
        assert main(["fit", *small(scenes, folder, f"--seed_everything={seed}", epochs=2)]) == 0
    paths = [folder / "checkpoints" / "last.ckpt" for folder in (run, tmp_path / "same", tmp_path / "other")]
    again = [weights_hash(torch.load(path, weights_only=True)["state_dict"]) for path in paths]
    assert again[0] == again[1] != again[2]


def test_a_resumed_run_ends_as_one_that_was_not_broken_off(scenes: Path, tmp_path: Path):
    """To the bit, whatever dropout and reconstruction draw."""
    random = ("--model.dropout=0.3", "--model.hide=0.3", "--model.region_dropout=0.3")
    assert main(arguments(scenes, tmp_path / "whole", more=random)) == 0
    assert main(arguments(scenes, tmp_path / "two", "test_module.StopAfterOne", more=random)) == 0
    assert torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    assert last(tmp_path / "two") != last(tmp_path / "whole")
    assert main(arguments(scenes, tmp_path / "two", more=(*random, "--ckpt_path=last"))) == 0
    assert last(tmp_path / "two") == last(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(arguments(scenes, tmp_path, "test_module.CtrlC")) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning has switched off
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert f"the last whole epoch is in {last}; with --ckpt_path last it goes on there" in capsys.readouterr().err
    assert torch.load(last, weights_only=True)["epoch"] == 0


def test_a_configuration_that_is_not_utf8(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.yaml"
    path.write_bytes("out: runs/Zürich\n".encode("latin-1"))
    for given in ([f"--config={path}"], ["--config", str(path)]):
        assert main(["fit", *given]) == 2
        assert f"racg: {path}: expected UTF-8, got another encoding" in (said := capsys.readouterr().err)
        assert said.count("\n") == 1


def test_the_last_epoch_is_kept_whether_or_not_it_was_the_best(scenes: Path, tmp_path: Path):
    """Weights that hardly move have the same recalls in every epoch, of which the first then is the best."""
    keep = ("ModelCheckpoint", "ModelCheckpoint.monitor=dev/rsum", "ModelCheckpoint.mode=max", "ModelCheckpoint.save_last=true")
    first, *rest = (f"--trainer.callbacks{'' if '=' in one else '+'}={one}" for one in keep)
    options = [
        first,
        *(one.replace("=ModelCheckpoint.", ".") for one in rest),
        "--trainer.callbacks.filename=best",
        "--model.lr=1e-12",
    ]
    assert main(["fit", *small(scenes, tmp_path, *options, epochs=3)]) == 0
    steps = {
        name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    }
    assert steps["last"] == 3 * steps["best"]
    assert main(["fit", *small(scenes, tmp_path, *options, "--ckpt_path=last", epochs=4)]) == 0
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4 * steps["best"]


def test_an_evaluation_that_never_came_is_said(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", *small(scenes, tmp_path, check_val_every_n_epoch=2)]) == 0
    assert "dev was not evaluated" in (said := capsys.readouterr().err)
    assert "training ended before that came due (trainer.check_val_every_n_epoch 2)" in said
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_lightnings_own_look_whether_all_runs(scenes: Path, run: Path, tmp_path: Path):
    path = run / "checkpoints" / "last.ckpt"
    for verb, more in (("fit", []), ("validate", [f"--ckpt_path={path}"]), ("test", [f"--ckpt_path={path}"])):
        assert main([verb, *small(scenes, tmp_path / verb, *more, fast_dev_run=True)]) == 0
    for verb, more in (("test", ["--save_scores"]), ("predict", [])):  # nothing is ranked, and nothing written
        given = small(scenes, tmp_path / "none", *more, f"--ckpt_path={path}", fast_dev_run=True)
        assert main([verb, *given]) == 0
    assert not [left for left in (tmp_path / "none").iterdir() if left.suffix in (".npy", ".jsonl")]


# ---- evaluation ----


def direct(module: RACGModule, data: RetrievalData, stage: str) -> dict[str, float]:
    """The recalls of a split, all of it in one batch."""
    split, model = data.split(stage), module.model.eval()
    with torch.no_grad():
        images = model.encode_image(split.regions(torch.arange(len(split)).numpy()))
        texts = model.encode_text(split.sentences(torch.arange(len(split.image)).numpy()))
        return recalls(model.score(images, texts), torch.from_numpy(split.image))


def test_evaluation_is_the_recalls_of_all_pairs(scenes: Path, run: Path, tmp_path: Path):
    module = RACGModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    data = RetrievalData(str(scenes), "chain", images=7)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path, use_distributed_sampler=False
    )
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    assert module.evaluated.metrics == direct(module, data, "test")
    assert module.evaluated.scores.shape == (20, 100)
    assert logged["test/rsum"] == pytest.approx(module.evaluated.metrics["rsum"])
    trainer.validate(module, datamodule=data, verbose=False)
    assert module.evaluated.metrics == direct(module, data, "validate")
    assert not module.seen.images  # nothing is kept between evaluations


def test_recalls_and_matches_without_the_matrix(scenes: Path, run: Path, tmp_path: Path):
    path = run / "checkpoints" / "last.ckpt"
    for name, more in (("whole", []), ("streamed", ["--score_memory_mb=0"])):
        assert main(["predict", *small(scenes, tmp_path / name, f"--ckpt_path={path}", *more)]) == 0
        assert main(["test", *small(scenes, tmp_path / name, f"--ckpt_path={path}", *more)]) == 0
    whole, streamed = ((tmp_path / name / "predictions.jsonl").read_text().splitlines() for name in ("whole", "streamed"))
    for one, two in zip(whole, streamed, strict=True):  # the same but for the last digit, and the order of what it decides
        first, second = (dict(json.loads(line)["matches"]) for line in (one, two))
        assert sum(abs(first.get(key, 9) - value) < 2e-4 for key, value in second.items()) >= 9
    tables = [json.loads((tmp_path / name / "test.json").read_text())["metrics"] for name in ("whole", "streamed")]
    assert tables[0] == tables[1]


def test_scores_cannot_be_saved_where_they_are_streamed(scenes: Path, run: Path, tmp_path: Path, capsys):
    path = run / "checkpoints" / "last.ckpt"
    arguments = small(scenes, tmp_path, f"--ckpt_path={path}", "--save_scores=true", "--score_memory_mb=0")
    assert main(["test", *arguments]) == 2
    assert "within --score_memory_mb" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["vse_infinity", "scan_t2i"])
def test_two_processes_share_captions_without_relations_nodes_or_pooled_embeddings(method: str, scenes: Path, tmp_path: Path):
    """Peers have no relations, VSE∞ nodes of no width, SCAN no pooled embedding: empty tensors, gathered all the same."""

    def peer(out: str, *more: str, **trainer: object) -> list[str]:
        options = [option for option in small(scenes, tmp_path / out, *more, **trainer) if not option.startswith("--model.")]
        return [*options, f"--model.method={method}", "--model.dim=16", "--model.word_dim=8"]

    assert main(["fit", *peer("one", "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint")]) == 0
    path = next((tmp_path / "one" / "checkpoints").glob("*.ckpt"))
    assert main(["test", *peer("one", f"--ckpt_path={path}")]) == 0
    by_two_processes(["test", *peer("two", f"--ckpt_path={path}", strategy="ddp", devices=2)], tmp_path)
    one, two = (json.loads((tmp_path / name / "test.json").read_text()) for name in ("one", "two"))
    assert one["metrics"] == two["metrics"]


@pytest.mark.parametrize("memory", [1024, 0], ids=["whole", "streamed"])
def test_two_processes_give_the_numbers_of_one(memory: int, scenes: Path, run: Path, tmp_path: Path):
    """gloo, 20 images over two processes, through the command line."""
    path = run / "checkpoints" / "last.ckpt"
    assert main(["test", *small(scenes, tmp_path / "one", f"--ckpt_path={path}", "--save_scores=true")]) == 0
    more = ["--save_scores=true"] if memory else ["--score_memory_mb=0"]
    options = small(scenes, tmp_path / "two", f"--ckpt_path={path}", *more, strategy="ddp", devices=2)
    by_two_processes(["test", *options], tmp_path)
    one, two = (json.loads((tmp_path / name / "test.json").read_text()) for name in ("one", "two"))
    assert one["metrics"] == two["metrics"]
    assert one["data"] == two["data"]
    if memory:
        scores = [torch.from_numpy(np.load(tmp_path / name / "test_scores.npy")) for name in ("one", "two")]
        torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


def test_text_by_another_parser_is_refused(scenes: Path, run: Path):
    module = RACGModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    with pytest.raises(DataError, match=r"expected text by chain 1 \(chain\)"):
        trainer.test(module, datamodule=RetrievalData(str(scenes), "bundled"), verbose=False)
