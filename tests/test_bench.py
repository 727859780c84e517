"""Each section of the bench runs, at sizes that measure nothing; what it compares with is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from elsewhere import DEVICE, elsewhere
from racg_pl import bench as bench_module
from racg_pl import bench_items, bench_parts, bench_training, native
from racg_pl.bench import NAMED, bench, evaluation, loop_share, parts
from racg_pl.bench_items import GEMM_FLOP, REPEATS, apart, build, interleaved, sentences, some_batch
from racg_pl.bench_parts import WHY, Part, memory_passes, of_evaluation, of_step, table
from racg_pl.bench_report import markdown, parts_table
from racg_pl.bench_rivals import by_definition, caption_loop, plain_score
from racg_pl.bench_training import FLOOR, declared_epochs, hours, training
from racg_pl.errors import DataError
from racg_pl.graphs import has_role
from racg_pl.memory import peak_mb
from test_model import IMAGES, TEXTS, model

ROOT = Path(__file__).resolve().parents[1]
SMALL = "trainer: {max_epochs: 3}\nmodel: {dim: 32, align_dim: 16, heads: 2, relation_heads: 2, word_dim: 8}\n"


def test_every_section_runs_and_every_named_figure_is_there(tmp_path: Path):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    page = bench(config, tmp_path / "out", small=True)
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert set(NAMED) <= set(record)
    empty = {name for name, value in record.items() if value is None}
    halved = {"eval_bf16_vs_f32", "train_b32_bf16_vs_f32", "train_b128_bf16_vs_f32"}
    void = {"eval_f32_vs_caption_loop"} if record["caption_loop_share_of_gemm"] < FLOOR else set()  # mostly, so small
    void |= {
        f"train_b{size}_{ratio}" for size in (32, 128) for ratio in ("vs_caption_loop", "vs_caption_loop_on_our_gru") if void
    }
    assert empty - halved == void | {"two_stage_1m_query_ms"}  # no million
    assert empty & halved == (halved if native.available(torch.zeros(1)) and not native.narrow() else set())
    assert set(record["null_because"]) == empty
    assert all(record[name] > 0 for name in set(NAMED) - empty - {"coco5k_extra_mb"})  # so little may not show
    assert {
        "growth_pairs",
        "growth_captions",
        "growth_words",
        "read_images_per_s",
        "read_wait_share_0_workers",
        "read_wait_share_4_workers",
        "encode_image_ms",
        "two_stage_first_ms",
    } <= set(record)
    assert record["hours_flickr30k"] == pytest.approx(hours(29_000, 3, record["train_b128_s"]), abs=1e-3)
    assert (record["epochs_flickr30k"], record["epochs_coco"]) == (3, 3)
    assert record["hours_coco"] == pytest.approx(hours(113_287, 3, record["train_b128_s"]), abs=1e-3)
    shown = set(WHY) - {"separate embeddings"}  # which this model has not
    assert {row["part"] for row in record["parts_train"] + record["parts_eval"]} == shown
    assert all(name in page for name in (*NAMED, *shown))
    assert (tmp_path / "out" / "bench.md").read_text() == page + "\n"


def test_sections_are_chosen_and_what_was_left_out_says_so(tmp_path: Path):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    bench(config, tmp_path, ["encode"], small=True)
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["encode_caption_ms"] > 0
    assert "left out" in record["null_because"]["gemm_f32_gflops"]
    with pytest.raises(DataError, match="sections among eval"):
        bench(config, tmp_path, ["speed"])


@pytest.mark.parametrize("text", ["- 1\n", "model: [\n", None])
def test_a_bad_configuration(tmp_path: Path, text):
    config = tmp_path / "bad.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(DataError, match=r"bad\.yaml: expected a configuration"):
        bench(config, tmp_path)
    assert not (tmp_path / "bench.json").exists()


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot be written \(File exists\)"):
        bench(tmp_path / "no such configuration", tmp_path / "file")


def test_the_caption_loop_is_scans():
    """One pair by plain loops."""
    torch.manual_seed(0)
    regions, words = torch.randn(3, 4, 6), torch.randn(2, 5, 6)
    scores = caption_loop(regions, words, [5, 3], temperature=4.0)
    assert scores.shape == (3, 2)
    total = 0.0
    affinity = torch.stack([torch.stack([(r * w).sum() for w in words[1, :3]]) for r in regions[2]])
    affinity = torch.where(affinity > 0, affinity, 0.1 * affinity)
    affinity = affinity / affinity.norm(dim=1, keepdim=True)  # over the words
    for w in range(3):
        context = ((4.0 * affinity[:, w]).softmax(0)[:, None] * regions[2]).sum(0)
        total += torch.cosine_similarity(words[1, w], context, dim=0).item() / 3
    assert scores[2, 1].item() == pytest.approx(total, abs=1e-5)


def test_the_definition_and_plain_torch_are_the_score():
    made = model().eval()
    with torch.no_grad():
        images, texts = made.encode_image(IMAGES), made.encode_text(TEXTS)
        score = made.score(images, texts)
        torch.testing.assert_close(plain_score(made, images, texts), score, atol=1e-5, rtol=1e-5)
        matched = images.take(torch.arange(len(score.T)) % len(score))
        diagonal = torch.stack([score[k % len(score), k] for k in range(len(score.T))])
        torch.testing.assert_close(by_definition(made, matched, texts, 2), diagonal, atol=1e-5, rtol=1e-5)


def fixed_times(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    """Programs of the bench run once and take these seconds."""
    for module in ("bench", "bench_training"):
        monkeypatch.setattr(
            f"racg_pl.{module}.interleaved", lambda *programs, **_: [program() for program in programs] and list(times)
        )


def test_the_definition_is_message_passing_by_pairs_of_each_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each of 16 captions with one of 8 images, in 2 s, while the score has all 128 pairs in half a second."""
    config, messages = tmp_path / "small.yaml", []
    config.write_text(SMALL)
    made = build(config)[1]
    message = made.encoder.message
    monkeypatch.setattr(made.encoder, "message", lambda **given: messages.append(given["unit_j"].shape) or message(**given))
    fixed_times(monkeypatch, 0.5, 1, 2, 4, 1, 1)
    record = evaluation(made, small=True)
    assert record["eval_f32_vs_definition"] == (128 / 0.5) / (16 / 2)
    assert record["eval_f32_vs_plain"] == (128 / 0.5) / (32 / 4)
    words = int(sentences(16).mask.sum())
    assert messages == [(36 * words, 2, 8)] * 2  # in each direction


@pytest.mark.parametrize(("share", "ratio"), [(0.2, 0.5), (0.1, None)])
def test_ratios_to_a_loop_that_hardly_computes_are_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share, ratio):
    """In scoring and in training: 8 images × 4 captions of 6 to 9 words, 32 wide, in as many seconds as make this share."""
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    module, made, _ = build(config)
    seconds = 8 * 4 * 36 * (6 + 7 + 8 + 9) * 32 / (share * GEMM_FLOP)  # where a product takes one
    fixed_times(monkeypatch, 0.5, 1, 1, 1, seconds, 1)
    record = evaluation(made, small=True)
    assert record["caption_loop_share_of_gemm"] == pytest.approx(share)
    assert (record["eval_f32_vs_caption_loop"] is None) == (ratio is None)
    fixed_times(monkeypatch, seconds, 1)
    assert loop_share(made, small=True) == pytest.approx(share)
    fixed_times(monkeypatch, 1, 1, 2, 2)
    monkeypatch.setattr("racg_pl.bench_training.apart", lambda *_: 1.0)
    record = training(module, True, config, {"flickr30k": 1, "coco": 1}, share)
    ratios = [record[f"train_b{size}_vs_caption_loop{gru}"] for size in (32, 128) for gru in ("", "_on_our_gru")]
    assert ratios == [ratio] * 4


def test_generated_sentences_have_twelve_words_on_average():
    made = sentences(26)
    assert made.mask.sum(1).float().mean() == 12
    assert (made.relations[0, 0] >= 0).sum() == 2  # itself and its neighbour
    figure, ground = (has_role(made.relations, [role]).nonzero().tolist() for role in ("figure", "ground"))
    assert figure[:2] == [[0, 2, 1], [1, 2, 1]]
    assert [place for place in ground if place[0] == 12] == [[12, 2, 4], [12, 6, 8]]  # of 18 words
    assert [place for place in ground if place[0] == 0] == [[0, 2, 4]]  # of six: the second pair does not fit
    assert GEMM_FLOP == 2 * 2048 * 1024 * 2048


def test_hours_are_those_of_all_steps():
    assert hours(29_000, 100, 0.5) == pytest.approx(227 * 100 * 0.5 / 3600)
    assert hours(128, 1, 3600.0) == 1
    assert hours(113_287, 30, 1.0) == pytest.approx(886 * 30 / 3600)


def test_epochs_are_those_that_the_tables_declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert declared_epochs(ROOT / "experiments" / "flickr30k.yaml") == {"flickr30k": 100, "coco": 40}
    other, silent = tmp_path / "small.yaml", tmp_path / "silent.yaml"
    other.write_text(SMALL)
    silent.write_text("model: {}\ntrainer:\n")
    assert declared_epochs(other) == {"flickr30k": 3, "coco": 3}
    assert declared_epochs(silent, tmp_path / "none.yaml") == {"flickr30k": 100, "coco": 100}


@pytest.mark.parametrize("options", ["separate_embeddings: false", "separate_embeddings: true", "decode: objects"])
def test_parts_of_a_step_are_the_step(tmp_path: Path, options: str):
    """What needs a gradient has one after all parts, as after a step, and arithmetic is counted where products are."""
    config = tmp_path / "small.yaml"
    config.write_text(SMALL.replace("dim: 32", f"dim: 32, dropout: 0.0, {options}"))
    module, model, _ = build(config)
    batch = some_batch(6)
    step, evaluation = of_step(module, model, batch), of_evaluation(model, batch)
    assert all(part.flop > 0 and part.bytes > 0 for part in step + evaluation)
    for part in step[:-1]:
        part.run()
    names = {name for name, weight in module.named_parameters() if weight.requires_grad}
    torch.stack(list(module.losses(batch, hardest=True)[0].values())).sum().backward()
    assert {name for name, weight in module.named_parameters() if weight.grad is not None} == names


def test_arithmetic_of_pairs_is_counted_once(tmp_path: Path):
    """By hand: 36 regions; 6 to 18 words, of which one row and up to two columns of T hold something. Training goes over it thrice."""
    config = tmp_path / "small.yaml"
    config.write_text(SMALL.replace("dim: 32", "dim: 32, dropout: 0.0, hide: 0.0"))
    module, model, _ = build(config)
    batch = some_batch(13)
    lengths = range(6, 19)
    pairs = sum(
        2 * 36 * words * 16  # similarities of P = 16
        + 36 * words * (5 * 2 + 8)  # of two heads: their mean, two sums, two softmaxes
        + (36 + words) * (2 * 2 * 17 + 32)  # g of 16 hidden units
        + 4 * 2 * (36 * 36 + 36 * (1 if words < 9 else 2))  # G by the α of word 1, by those of words 4 and 8, in four channels
        for words in lengths
    )
    assert of_evaluation(model, batch)[-1].flop == pytest.approx(13 * pairs)
    (cross,) = (part for part in of_step(module, model, batch) if part.name == "cross graph")
    assert cross.flop == pytest.approx(3 * 13 * pairs)


def test_parts_are_medians_of_as_many_turns_as_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, asked = tmp_path / "small.yaml", []
    config.write_text(SMALL)
    module, model, _ = build(config)
    for name in ("train_step", "of_step", "of_evaluation"):
        monkeypatch.setattr(f"racg_pl.bench.{name}", lambda *_: [])
    monkeypatch.setattr("racg_pl.bench.table", lambda *given: asked.append(given[-1]))
    parts(module, model, small=False)
    assert asked == [REPEATS, REPEATS] == [5, 5]


def test_memory_is_measured_by_passes_over_what_is_there_already(monkeypatch: pytest.MonkeyPatch):
    """Fresh pages cost more than what is written into them."""
    monkeypatch.setattr(bench_parts, "COPIED", 1 << 16)
    for program in memory_passes():
        with torch.profiler.profile(profile_memory=True) as seen:
            program()
        assert sum(max(event.self_cpu_memory_usage, 0) for event in seen.events()) < 1 << 10


def test_floors_are_those_of_the_faster_pass_and_the_rest_has_none(monkeypatch: pytest.MonkeyPatch):
    """Parts of 1 and 2 s of a whole of 4, a product of 2 s, a copy of 1 s and a pass of half a second."""
    monkeypatch.setattr(bench_parts, "COPIED", 1 << 10)
    monkeypatch.setattr(bench_parts, "interleaved", lambda *_, **__: [1.0, 2.0, 4.0, 2.0, 1.0, 0.5])
    made = [Part(name, dict, GEMM_FLOP, 8 << 10) for name in ("regions", "words")]
    *rows, rest = table(made, dict, 1)
    assert [row["ms"] for row in rows] == [1000, 2000]
    assert [(row["arithmetic_ms"], row["bytes_ms"]) for row in rows] == [(2000, 500)] * 2
    assert rest == {"part": "objective and the rest", "ms": 1000, "arithmetic_ms": None, "bytes_ms": None}
    *_, last = parts_table("parts_train", [*rows, rest])
    assert last.startswith("| objective and the rest | 1,000.0 | – | – |")


def test_memory_is_shown_in_mebibytes():
    record = {"train_b128_peak_mb": 1431.25, "coco5k_extra_mb": None, "train_b128_s": 1.5, "null_because": {}}
    page = markdown(record | dict.fromkeys(("config", "config_sha256", "commit", "torch", "threads"), ""))
    assert "| train_b128_peak_mb | 1,431 MiB |\n| coco5k_extra_mb | – |\n| train_b128_s | 1.5 |" in page


def test_programs_take_turns():
    order: list[str] = []
    times = interleaved(lambda: order.append("a"), lambda: order.append("b"), repeats=2)
    assert order == ["a", "b"] * 3
    assert len(times) == 2


def test_memory_of_a_process_apart_is_its_own():
    here = torch.ones(150_000_000)  # 600 MB
    assert peak_mb() > 600
    child = apart(peak_mb)
    assert here.sum() > 0
    assert 5 < child < peak_mb() - 500


def once(*programs: Callable[[], object], repeats: int = 1) -> list[float]:
    """In place of `interleaved`: each runs once, and takes a second."""
    for program in programs:
        program()
    return [1.0] * len(programs)


def test_every_section_runs_on_a_device_that_is_not_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on CUDA, but for its own meters of time and memory; in one process, since another would not know of the device."""
    for module in (bench_module, bench_items, bench_parts, bench_training):
        monkeypatch.setattr(module, "device", lambda: torch.device(DEVICE), raising=False)
        monkeypatch.setattr(module, "interleaved", once, raising=False)
        monkeypatch.setattr(module, "apart", lambda program, *arguments: program(*arguments), raising=False)
    for name in ("WARM", "MEASURED"):
        monkeypatch.setattr(bench_module, name, 1)
    monkeypatch.setitem(bench_module.DEFINED, DEVICE, 256)
    config = tmp_path / "small.yaml"
    config.write_text(SMALL)
    with elsewhere():
        bench(config, tmp_path / "out", small=True)
    record = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert not record["operator"]
    ratios = {"eval_f32_vs_caption_loop", "train_b128_vs_caption_loop"}  # void, where no time is taken
    assert {name for name in NAMED if record[name] is None} <= ratios | {"two_stage_1m_query_ms"}
