"""Captions into parses and words: the shipped parser's scores and manners, the other parsers, the vocabulary, the files."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import random
import re
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import spacy
from spacy.training import Example

from racg_pl import text
from racg_pl.captions import CaptionStore, ParseStore, write_captions
from racg_pl.cli import main
from racg_pl.errors import DataError
from racg_pl.features import RegionStore, RegionWriter
from racg_pl.text import (
    BLOCK,
    Parse,
    Parser,
    Vocabulary,
    load_parser,
    parse_by_processes,
    parse_captions,
    require_same,
)
from racg_pl.text_files import prepare_texts

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = Path(text.__file__).parent / "parser"
TREEBANK = ROOT.parent / "shared" / "data" / "ud_english_ewt"


def script(name: str) -> ModuleType:
    """A module of data_prep/parser, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "data_prep" / "parser" / f"{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundled() -> Parser:
    return load_parser("bundled")


def arcs(parse: Parse, caption: int = 0) -> set[tuple[str, str, str]]:
    """(word, label, head) of every word but the root."""
    start, stop = parse.offsets[caption : caption + 2]
    words, heads, labels = parse.words[start:stop], parse.heads[start:stop], parse.labels[start:stop]
    named = [parse.label_names[label] for label in labels]
    return {
        (word, label, words[head]) for i, (word, head, label) in enumerate(zip(words, heads, named, strict=True)) if head != i
    }


def same(one: Parse, other: Parse) -> bool:
    arrays = ("heads", "labels", "tags", "offsets")
    return one.words == other.words and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)


# the shipped parser


@pytest.mark.skipif(not TREEBANK.exists(), reason="needs the treebank ../shared/data/ud_english_ewt")
def test_shipped_parser_scores_what_its_meta_says(bundled: Parser) -> None:
    treebank = script("treebank")
    examples = []
    for rows in treebank.sentences(TREEBANK / "en_ewt-ud-test.conllu.gz"):
        gold = treebank.document(bundled.nlp.vocab, rows)
        examples.append(
            Example(spacy.tokens.Doc(gold.vocab, [word.text for word in gold], [bool(w.whitespace_) for w in gold]), gold)
        )
    assert len(examples) == 2077
    scores = bundled.nlp.evaluate(examples, batch_size=256)
    claimed = json.loads((SHIPPED / "meta.json").read_text())["performance"]
    for name in ("dep_uas", "dep_las", "pos_acc"):
        assert scores[name] == pytest.approx(claimed[f"test_{name}"], abs=0.002)
    assert scores["dep_uas"] >= 0.86
    assert scores["dep_las"] >= 0.82


def test_shipped_parser_is_small_licensed_and_plain() -> None:
    names = {path.relative_to(SHIPPED).as_posix(): path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()}
    assert sum(names.values()) < 12_000_000
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".py"))]
    assert "CC BY-SA 4.0" in (SHIPPED / "LICENSE").read_text()
    meta = json.loads((SHIPPED / "meta.json").read_text())
    assert (meta["name"], meta["version"], meta["license"]) == ("racg_ewt", "0.1.0", "CC BY-SA 4.0")
    assert meta["sources"][0]["license"] == "CC BY-SA 4.0"


def test_shipped_parser_has_stable_labels(bundled: Parser) -> None:
    one, other = parse_captions(["dog"], bundled), parse_captions(["a man who rides a horse"], bundled)
    assert one.label_names == other.label_names == tuple(sorted(one.label_names))
    assert {"ROOT", "nsubj", "obl", "nmod", "acl", "amod", "nummod", "acl:relcl"} <= set(one.label_names)
    assert len(one.label_names) < 64
    assert (one.parser, one.version, one.scheme) == ("bundled", "0.1.0", "ud")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "a man in a blue shirt standing on a ladder",
            {("shirt", "nmod", "man"), ("blue", "amod", "shirt"), ("standing", "acl", "man"), ("ladder", "obl", "standing")},
        ),
        (
            "A little boy at a lake watching a duck .",
            {("lake", "nmod", "boy"), ("watching", "acl", "boy"), ("duck", "obj", "watching"), (".", "punct", "boy")},
        ),
        ("two dogs playing", {("two", "nummod", "dogs"), ("playing", "acl", "dogs")}),
        (
            "the dog is chased by a black cat",
            {("dog", "nsubj:pass", "chased"), ("cat", "obl:agent", "chased"), ("black", "amod", "cat")},
        ),
        ("a boy and a girl play in the snow", {("boy", "nsubj", "play"), ("girl", "conj", "boy"), ("snow", "obl", "play")}),
        (
            "the red car is behind the blue truck",
            {("red", "amod", "car"), ("blue", "amod", "truck"), ("car", "nsubj", "truck")},
        ),
        (
            "a man holding a red umbrella over a woman in a white dress",
            {
                ("umbrella", "obj", "holding"),
                ("red", "amod", "umbrella"),
                ("dress", "nmod", "woman"),
                ("white", "amod", "dress"),
            },
        ),
    ],
)
def test_shipped_parser_reads_captions(bundled: Parser, caption: str, expected: set[tuple[str, str, str]]) -> None:
    assert expected <= arcs(parse_captions([caption], bundled))


def test_capital_and_full_stop_change_no_relation(bundled: Parser) -> None:
    plain = arcs(parse_captions(["two dogs playing in the grass"], bundled))
    assert plain == {
        (word.lower(), label, head) for word, label, head in arcs(parse_captions(["Two dogs playing in the grass"], bundled))
    }
    assert plain | {(".", "punct", "dogs")} == arcs(parse_captions(["two dogs playing in the grass ."], bundled))


# empty, odd and plain captions


@pytest.mark.parametrize("parser", ["bundled", "chain"])
def test_captions_of_no_word_and_of_one(parser: str) -> None:
    parse = parse_captions(["", "dog", " \t\n", "Dog", "."], parser)
    assert parse.offsets.tolist() == [0, 0, 1, 1, 2, 3]
    assert parse.words == ["dog", "Dog", "."]
    assert parse.heads.tolist() == [0, 0, 0]
    assert [parse.label_names[label] for label in parse.labels] == ["ROOT"] * 3


@pytest.mark.parametrize("parser", ["bundled", "chain"])
def test_no_captions_at_all(parser: str) -> None:
    parse = parse_captions([], parser)
    assert (parse.words, parse.offsets.tolist(), len(parse.heads)) == ([], [0], 0)


@pytest.mark.parametrize("parser", ["bundled", "chain"])
def test_any_caption_gives_trees(parser: str) -> None:
    texts = [
        "naïve café owner 🐕 runs",
        "犬が走る",
        "\u200b",
        "a " * 300,
        "!!! ??? ...",
        "dont stop/go 3x4 o'clock",
        "two dogs. one cat.",
    ]
    parse = parse_captions(texts, parser)
    assert parse.heads.dtype == np.int32
    assert parse.labels.dtype == parse.tags.dtype == np.int16
    assert parse.offsets.dtype == np.int64
    for start, stop in zip(parse.offsets, parse.offsets[1:], strict=False):
        heads = parse.heads[start:stop]
        place = np.arange(stop - start)
        for _ in place:  # everyone reaches a root within as many steps as there are words
            place = heads[place]
        assert (heads[place] == place).all()
        assert all(word.strip() for word in parse.words[start:stop])
    assert parse.labels.max() < len(parse.label_names)
    assert parse.tags.max() < len(parse.tag_names)


def test_white_space_changes_nothing(bundled: Parser) -> None:
    assert same(parse_captions(["two dogs play"], bundled), parse_captions(["\n two\t dogs\u00a0 play \r\n"], bundled))


def test_words_stay_as_written(bundled: Parser) -> None:
    assert parse_captions(["A Little boy's dog ."], bundled).words == ["A", "Little", "boy", "'s", "dog", "."]


def test_same_captions_same_parse(bundled: Parser) -> None:
    texts = ["a man in a blue shirt standing on a ladder", "two dogs playing", "", "a red car beside a tree ."] * 90
    assert same(parse_captions(texts, bundled), parse_captions(texts, "bundled"))
    alone = [parse_captions([caption], bundled) for caption in texts[:4]]
    together = parse_captions(texts, bundled)
    assert [arcs(parse) for parse in alone] == [arcs(together, caption) for caption in range(4)]


# other parsers


def test_chain_hangs_every_word_on_the_one_before() -> None:
    parse = parse_captions(["two dogs playing", "cat"], "chain")
    assert parse.heads.tolist() == [0, 0, 1, 0]
    assert [parse.label_names[label] for label in parse.labels] == ["ROOT", "next", "next", "ROOT"]
    assert {parse.tag_names[tag] for tag in parse.tags} == {"X"}
    assert (parse.parser, parse.version, parse.scheme) == ("chain", "1", "chain")


@pytest.mark.parametrize("name", ["en_core_web_nowhere", "/no/such/folder", "", "json"])
def test_parser_that_is_not_there(name: str) -> None:
    with pytest.raises(
        DataError, match=r"expected bundled, chain or an installed spaCy pipeline, got .+; install it"
    ) as caught:
        load_parser(name)
    assert "\n" not in str(caught.value)


def test_pipeline_without_dependencies_is_an_error(tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "split")
    with pytest.raises(
        DataError, match="expected a pipeline with a dependency parser, got the components sentencizer; use --parser"
    ):
        parse_captions(["two dogs"], str(tmp_path / "split"))


def toy_pipeline(folder: Path, *labels: str) -> str:
    """An untrained pipeline: its labels are all that matters."""
    nlp = spacy.blank("en", meta={"name": "toy", "version": "2.5.0"})
    nlp.add_pipe("ner").add_label("THING")  # type: ignore[attr-defined]
    parser = nlp.add_pipe("parser")
    for label in labels:
        parser.add_label(label)  # type: ignore[attr-defined]
    nlp.initialize()
    nlp.to_disk(folder)
    return str(folder)


def test_another_pipeline_keeps_its_name_version_and_scheme(tmp_path: Path) -> None:
    parser = load_parser(toy_pipeline(tmp_path / "toy", "pobj", "nsubj"))
    assert (parser.parser, parser.version, parser.scheme) == ("en_toy", "2.5.0", "clear")
    assert parser.label_names == ("ROOT", "dep", "nsubj", "pobj")
    assert "ner" not in parser.nlp.pipe_names
    assert len(parse_captions(["two dogs", ""], parser).words) == 2


def test_unknown_label_scheme_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected Universal Dependencies or ClearNLP labels, got .*oa.*; use --parser bundled"
    ):
        load_parser(toy_pipeline(tmp_path / "toy", "oa", "sb"))


def test_require_same_names_the_difference(bundled: Parser) -> None:
    parse, chain = parse_captions(["dog"], bundled), parse_captions(["dog"], "chain")
    require_same(bundled, parse, "dev.parse-bundled.h5")
    with pytest.raises(
        DataError, match=r"^dev.h5: expected a parse by bundled 0.1.0 \(ud\), got one by chain 1 \(chain\); run racg text"
    ):
        require_same(parse, chain, "dev.h5")
    for change, message in (
        ({"version": "0.2.0"}, r"got one by bundled 0.2.0 \(ud\)"),
        ({"scheme": "clear"}, r"got one by bundled 0.1.0 \(clear\)"),
        ({"label_names": (*parse.label_names, "zeal")}, r"with \d+ labels \(differing: zeal\)"),
        ({"label_names": parse.label_names[::-1]}, "in another order"),
    ):
        with pytest.raises(DataError, match=message):
            require_same(parse, Parse(**{**vars(parse), **change}), "dev.h5")


# the vocabulary


def test_vocabulary_orders_by_count_then_alphabet() -> None:
    vocabulary = Vocabulary.build(["The", "dog", "the", "cat", "A", "dog", "the", "ox", "a", "emu"], 2)
    assert vocabulary.words == ("<pad>", "<unk>", "the", "a", "dog")
    assert len(vocabulary) == 5
    assert vocabulary.counts == {"the": 3, "a": 2, "dog": 2, "cat": 1, "emu": 1, "ox": 1}
    ids = vocabulary.encode(["THE", "Dog", "cat", "zebra", "<pad>"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [2, 4, 1, 1, 1]
    assert vocabulary.encode([]).tolist() == []


def test_vocabulary_survives_the_disk(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["café", "Café", "犬", "dog", "dog"], 1)
    vocabulary.save(tmp_path / "vocab.json")
    loaded = Vocabulary.load(tmp_path / "vocab.json")
    assert (loaded.words, loaded.counts, loaded.threshold) == (vocabulary.words, vocabulary.counts, 1)
    assert loaded.sha256 == vocabulary.sha256 != Vocabulary.build(["dog"], 1).sha256
    before = (tmp_path / "vocab.json").read_bytes()
    loaded.save(tmp_path / "vocab.json")
    assert (tmp_path / "vocab.json").read_bytes() == before
    assert json.loads(before)["schema"] == "racg_pl.vocab/1"
    assert os.listdir(tmp_path) == ["vocab.json"]


def test_vocabulary_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").mkdir()
    with pytest.raises(DataError, match=r"vocab.json: cannot be written \(Is a directory\)"):
        Vocabulary.build(["dog"], 1).save(tmp_path / "vocab.json")
    assert os.listdir(tmp_path) == ["vocab.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a vocabulary in JSON, got: No such file"),
        ("{", "expected a vocabulary in JSON, got: "),
        ("[1]", "expected the schema 'racg_pl.vocab/1' with counts by word, got 'list'"),
        ('{"schema": "racg_pl.vocab/2", "threshold": 1, "counts": {"a": 1}}', "got 'racg_pl.vocab/2'"),
        ('{"schema": "racg_pl.vocab/1", "threshold": 1, "counts": [1]}', "counts: expected a count for each word, got list"),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": 0, "counts": {"a": 1}}',
            "threshold: expected a whole number of 1 or more, got 0",
        ),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": "4", "counts": {"a": 1}}',
            "threshold: expected a whole number of 1 or more",
        ),
        ('{"schema": "racg_pl.vocab/1", "counts": {"a": 1}}', "threshold: expected a whole number of 1 or more, got None"),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": 1, "counts": {"a": 1.5}}',
            "'a': expected a lower-cased word with a count",
        ),
        ('{"schema": "racg_pl.vocab/1", "threshold": 1, "counts": {"\\ud800": 2}}', r"expected a lower-cased word"),
        ('{"schema": "racg_pl.vocab/1", "threshold": 1, "counts": {"Dog": 2}}', "'Dog': expected a lower-cased word"),
        (
            '{"schema": "racg_pl.vocab/1", "threshold": 4, "counts": {"a": 3}}',
            "expected words seen 4 times or more, got at most 3",
        ),
        ('{"schema": "racg_pl.vocab/1", "threshold": 4, "counts": {}}', "got at most 0; lower the threshold"),
    ],
)
def test_bad_vocabulary_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "vocab.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        Vocabulary.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vocabulary_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="lower the threshold"):
        Vocabulary.build([], 1)


# whole folders


def make_captions(root: Path, split: str, texts: list[str]) -> None:
    with RegionWriter(root / f"{split}.h5", 1, 2, extractor="test") as writer:
        writer.add("picture", np.ones((1, 2)), np.array([[0.0, 0.0, 1.0, 1.0]]))
    write_captions(root / f"{split}.captions.h5", texts, [0] * len(texts), RegionStore(root / f"{split}.h5"))


def test_prepare_texts_writes_what_is_missing_and_no_more(tmp_path: Path) -> None:
    make_captions(tmp_path, "train", ["two dogs", "Two cats", ""])
    make_captions(tmp_path, "dev", ["three birds"])
    written = prepare_texts(tmp_path, "chain", 1)
    assert [path.name for path in written] == ["dev.parse-chain.h5", "train.parse-chain.h5", "vocab.json"]
    train = ParseStore(tmp_path / "train.parse-chain.h5")
    train.require(CaptionStore(tmp_path / "train.captions.h5"))
    assert (train.words, train.offsets.tolist()) == (["two", "dogs", "Two", "cats"], [0, 2, 4, 4])
    assert Vocabulary.load(tmp_path / "vocab.json").words == ("<pad>", "<unk>", "two", "cats", "dogs")  # train's words only
    assert prepare_texts(tmp_path, "chain", 1) == []
    assert [path.name for path in prepare_texts(tmp_path, "chain", 2)] == ["vocab.json"]

    make_captions(tmp_path, "dev", ["four birds"])  # changed captions
    (tmp_path / "train.parse-chain.h5").write_bytes(b"damaged")
    assert [path.name for path in prepare_texts(tmp_path, "chain", 2)] == ["dev.parse-chain.h5", "train.parse-chain.h5"]
    assert sorted(path.name for path in prepare_texts(tmp_path, "bundled", 2)) == [
        "dev.parse-bundled.h5",
        "train.parse-bundled.h5",
    ]
    require_same(ParseStore(tmp_path / "train.parse-bundled.h5"), ParseStore(tmp_path / "dev.parse-bundled.h5"), "dev")


def test_a_vocabulary_keeps_its_threshold_until_another_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_captions(tmp_path, "train", ["two dogs"] * 4 + ["two cats"] * 2)
    vocab = tmp_path / "vocab.json"
    prepare_texts(tmp_path, "chain")
    assert Vocabulary.load(vocab).threshold == 4
    assert main(["text", str(tmp_path), "--parser", "chain", "--threshold", "2", "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{vocab}\n"
    assert said.err == (
        f"{vocab}: 2 words seen 4 times or more became 3 words seen 2 times or more; models trained before do not fit it\n"
    )
    before = vocab.read_bytes()
    for parser in ("chain", "bundled"):
        assert main(["text", str(tmp_path), "--parser", parser, "--jobs", "1"]) == 0
    assert vocab.read_bytes() == before
    assert "became" not in capsys.readouterr().err
    vocab.write_bytes(b"damaged")
    assert prepare_texts(tmp_path, "chain") == [vocab]
    assert Vocabulary.load(vocab).threshold == 4


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--threshold", "0"), "threshold: expected a whole number of 1 or more, got 0; 1 keeps every word"),
        (("--jobs", "0"), "expected at least 1 process to parse, got --jobs 0; leave it out for the default"),
        (("--jobs", "-5"), "expected at least 1 process to parse, got --jobs -5; leave it out for the default"),
    ],
)
def test_numbers_are_refused_before_anything_is_parsed(
    option: tuple[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_captions(tmp_path, "train", ["two dogs"])
    assert main(["text", str(tmp_path), "--parser", "chain", *option]) == 2
    assert capsys.readouterr() == ("", f"racg: {tmp_path}: {says}\n")
    assert sorted(os.listdir(tmp_path)) == ["train.captions.h5", "train.h5"]


def test_without_a_train_split_it_says_that_there_is_no_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_captions(tmp_path, "test", ["two dogs"])
    given = ["text", str(tmp_path), "--parser", "chain", "--jobs", "1"]
    assert main([*given, "--threshold", "2"]) == 2
    assert capsys.readouterr().err == (
        f"racg: {tmp_path}/train.captions.h5: expected the captions that a threshold is of, got no such file; "
        "leave out --threshold\n"
    )
    assert sorted(os.listdir(tmp_path)) == ["test.captions.h5", "test.h5"]
    for _ in range(2):  # also where all is up to date
        assert main(given) == 0
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"{tmp_path}/vocab.json: not written, since there is no train.captions.h5, whose words it counts; copy the vocab.json "
            f"that the model was trained with, or convert the train split into {tmp_path}"
        )
    (tmp_path / "vocab.json").write_text("that of the model")
    assert main(given) == 0
    assert capsys.readouterr().err == ""


def test_a_caption_that_is_a_book_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_captions(tmp_path, "train", ["two dogs", "a dog " * 170_000])
    for parser in ("chain", "bundled"):
        assert main(["text", str(tmp_path), "--parser", parser, "--threshold", "1", "--jobs", "1"]) == 2
        assert capsys.readouterr() == (
            "",
            f"racg: {tmp_path}/train.captions.h5: record 1: expected a caption of at most 10,000 characters, got 1,020,000; "
            "shorten it and convert it again\n",
        )
    assert sorted(os.listdir(tmp_path)) == ["train.captions.h5", "train.h5"]


def test_prepare_texts_repeats_byte_for_byte(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_captions(tmp_path / folder, "train", ["a man in a blue shirt standing on a ladder"])
        prepare_texts(tmp_path / folder, threshold=1)
    names = ("train.parse-bundled.h5", "vocab.json")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_prepare_texts_errors_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected files SPLIT.captions.h5, got none"):
        prepare_texts(tmp_path)
    make_captions(tmp_path, "train", ["two dogs"])
    with pytest.raises(DataError, match="got at most 1; lower the threshold"):
        prepare_texts(tmp_path, "chain", 4)
    assert sorted(os.listdir(tmp_path)) == ["train.captions.h5", "train.h5", "train.parse-chain.h5"]


# the parser's training data

CONLLU = """# text = Dogs don't bark
1\tDogs\tdog\tNOUN\tNNS\t_\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
3.1\tghost\t_\t_\t_\t_\t_\t_\t_\t_
4\tbark\tbark\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No

1\tWoof\twoof\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def test_treebank_reader_keeps_syntactic_words_only(tmp_path: Path) -> None:
    treebank = script("treebank")
    (tmp_path / "x.conllu").write_text(CONLLU)
    first, second = (treebank.document(spacy.blank("en").vocab, rows) for rows in treebank.sentences(tmp_path / "x.conllu"))
    assert [word.text for word in first] == ["Dogs", "do", "n't", "bark"]
    assert [word.head.i for word in first] == [3, 3, 3, 3]
    assert [word.dep_ for word in first] == ["nsubj", "aux", "advmod", "ROOT"]
    assert [word.pos_ for word in first] == ["NOUN", "AUX", "PART", "VERB"]
    assert second.text == "Woof "


def test_fragments_are_noun_phrases_with_their_own_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "data_prep" / "parser")  # corpus.py imports grammar.py
    corpus, nlp = script("corpus"), spacy.blank("en")
    words, heads = ["We", "saw", "a", "man", "in", "red", "yesterday"], [1, 1, 3, 1, 5, 3, 1]
    tags, deps = ["PRON", "VERB", "DET", "NOUN", "ADP", "NOUN", "NOUN"], ["nsubj", "ROOT", "det", "obj", "case", "nmod", "obl"]
    doc = spacy.tokens.Doc(nlp.vocab, words, heads=heads, deps=deps, pos=tags)
    (phrase,) = corpus.noun_phrases(doc)
    sample = corpus.sample(nlp, phrase, lower=True).reference
    assert [(word.text, word.head.text, word.dep_) for word in sample] == [
        ("a", "man", "det"),
        ("man", "man", "ROOT"),
        ("in", "red", "case"),
        ("red", "man", "nmod"),
    ]


def test_generated_captions_are_projective_trees() -> None:
    grammar, vocab = script("grammar"), spacy.blank("en").vocab
    random.seed(0)
    docs = [grammar.document(vocab) for _ in range(300)]
    for doc in docs:
        assert [word.dep_ for word in doc].count("ROOT") == 1
        for word in doc:  # a subtree without a gap
            inside = sorted(inner.i for inner in word.subtree)
            assert inside == list(range(inside[0], inside[-1] + 1))
        assert list(doc[0].sent.root.subtree) == list(doc)
    random.seed(0)
    assert [doc.text for doc in docs] == [grammar.document(vocab).text for _ in docs]


def test_several_processes_parse_the_same_to_the_byte(bundled):
    texts = [f"{number} dogs chase a {colour} ball" for number in ("two", "three", "no") for colour in ("red", "big", "")] * 250
    one, several = parse_captions(texts, bundled), parse_by_processes(texts, "bundled", 2)
    assert len(texts) > 2 * BLOCK
    assert same(one, several)
    assert (one.edges == several.edges).all()
    assert (one.edge_offsets == several.edge_offsets).all()
    assert several.offsets.dtype == one.offsets.dtype


def killed(_: object) -> None:
    """As a process, where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_load", killed)
    with pytest.raises(DataError, match="a process was killed, perhaps for want of memory; give racg text --jobs 1"):
        parse_by_processes(["a dog"], "chain", 1)


def test_an_interruption_is_left_to_the_parent() -> None:
    """Ctrl-C reaches every process of the terminal, and each that does not ignore it prints a traceback."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), text._load, ("chain",)) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_prepare_texts_tells_its_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_captions(tmp_path, "train", ["two dogs", "a cat", "a bird"])
    prepare_texts(tmp_path, "chain", 1, progress=True)
    said = capsys.readouterr().err
    assert re.search(r"train\.parse-chain\.h5: 3 captions in \d+\.\d s, [\d,]+ a second\n", said)
    prepare_texts(tmp_path, "chain", 1, progress=True)
    assert capsys.readouterr().err == ""  # all up to date
