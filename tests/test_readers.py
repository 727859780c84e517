"""Every layout, written as its tools write it, comes back as the values that went in."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import layouts
from layouts import Photo, corpus
from racg_pl.captions import CaptionStore
from racg_pl.check import check
from racg_pl.convert import convert
from racg_pl.errors import DataError
from racg_pl.features import RegionStore
from racg_pl.readers import open_regions, recognise
from racg_pl.readers.captions import read_captions

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "bottom_up_sample" / "train2014_obj36.tsv"


def dev(photos: Sequence[Photo]) -> list[Photo]:
    return [photo for photo in photos if photo.split == "val"]


def expect(out: Path, photos: Sequence[Photo], ids: Sequence[str], has: str = "", boxes: bool = True) -> None:
    """The store `out` holds these pictures in this order, with what `has` names, and its captions theirs."""
    store, captions = RegionStore(out), CaptionStore(out.with_suffix(".captions.h5"))
    assert store.ids == list(ids)
    assert store.boxes_known == boxes
    got = store.read(np.arange(len(store)))
    columns = {"objects": got.labels, "scores": store.scores}
    columns |= {"attributes": store.attributes, "attribute_scores": store.attribute_scores}
    for k, photo in enumerate(photos):
        count = len(photo.features)
        assert got.counts[k] == count
        np.testing.assert_array_equal(got.features[k, :count], photo.features)
        if boxes:
            np.testing.assert_array_equal(got.boxes[k, :count], photo.relative)
        for name in has.split():
            np.testing.assert_array_equal(columns[name][k, :count], getattr(photo, name))
    for name in set(columns) - set(has.split()):
        assert columns[name] is None or (columns[name] == -1).all()
    assert captions.texts == [text for photo in photos for text in photo.captions]
    np.testing.assert_array_equal(captions.image, np.repeat(np.arange(len(photos)), 5))
    check(out)
    check(out.with_suffix(".captions.h5"))


EVERYTHING = "objects scores attributes attribute_scores"


def names(photos: Sequence[Photo]) -> list[str]:
    return [photo.name for photo in photos]


def numbers(photos: Sequence[Photo]) -> list[str]:
    return [str(photo.number) for photo in photos]


def test_scans_precomp(tmp_path: Path) -> None:
    photos = corpus()
    source = layouts.precomp(tmp_path / "a", photos)
    assert "SCAN's precomp\n" in convert(source, tmp_path / "x.h5", split="dev")
    expect(tmp_path / "x.h5", photos, numbers(photos), "objects scores")
    plain = layouts.precomp(tmp_path / "b", photos, boxes="none", times=5)
    assert "boxes are unknown" in convert(plain, tmp_path / "y.h5", split="dev")
    expect(tmp_path / "y.h5", photos, numbers(photos), boxes=False)


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("named", [False, True])
def test_gsmns_boxes(tmp_path: Path, times: int, named: bool) -> None:
    photos = corpus()
    source = layouts.precomp(tmp_path / "a", photos, boxes="gsmn", times=times)
    if named:  # sizes as numpy's named fields, in any order
        sizes = np.zeros(len(photos) * times, [("image_h", "i4"), ("image_w", "i4")])
        sizes["image_w"], sizes["image_h"] = np.load(source / "dev_ims_size.npy").T
        np.save(source / "dev_ims_size.npy", sizes)
    assert "SCAN's precomp with GSMN's boxes\n" in convert(source, tmp_path / "x.h5", split="dev")
    expect(tmp_path / "x.h5", photos, numbers(photos))
    assert RegionStore(tmp_path / "x.h5").sizes.tolist() == [[photo.width, photo.height] for photo in photos]


def test_gsmns_published_sizes_are_a_pickle(tmp_path: Path) -> None:
    source = layouts.precomp(tmp_path / "a", corpus(), boxes="gsmn")
    sizes = np.array([{"image_w": photo.width, "image_h": photo.height} for photo in corpus()])
    np.save(source / "dev_ims_size.npy", sizes, allow_pickle=True)
    with pytest.raises(DataError, match="expected sizes, got pickled dictionaries; save them plainly, once") as error:
        convert(source, tmp_path / "x.h5", split="dev")
    # the sentence works as it stands
    recipe = str(error.value).split("where you trust the file: ")[1]
    exec(recipe, {"np": np, "path": source / "dev_ims_size.npy"})
    convert(source, tmp_path / "x.h5", split="dev")
    expect(tmp_path / "x.h5", corpus(), numbers(corpus()))


@pytest.mark.parametrize("inside", ["", "precomp"])
def test_vse_infinity(tmp_path: Path, inside: str) -> None:
    photos = corpus()
    source = layouts.vse_infinity(tmp_path / "a", photos)
    assert "VSE-infinity's precomp\n" in convert(source / inside, tmp_path / "x.h5", split="dev")
    expect(tmp_path / "x.h5", photos, [f"val2014/{photo.name}.jpg" for photo in photos], boxes=False)
    # without the mapping, or told so, it is SCAN's
    convert(source / "precomp", tmp_path / "y.h5", split="dev", layout="precomp")
    expect(tmp_path / "y.h5", photos, numbers(photos), boxes=False)


@pytest.mark.parametrize(
    ("columns", "ids", "has", "called"),
    [
        (layouts.peteanderson, numbers, "", "bottom-up TSV with peteanderson80's columns"),
        (layouts.lxmert, names, EVERYTHING, "bottom-up TSV with LXMERT's columns"),
    ],
)
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_tsv_with_karpathys_splits(tmp_path: Path, columns: Callable, ids: Callable, has: str, called: str, end: str) -> None:
    photos = corpus(12)
    source = layouts.tsv(tmp_path / "a.tsv", photos[::-1], columns, end)  # in another order than the captions
    splits = layouts.karpathy(tmp_path / "dataset.json", photos)
    for split, members in {"train": ("train", "restval"), "dev": ("val",), "val": ("val",), "test": ("test",)}.items():
        chosen = [photo for photo in photos if photo.split in members]
        told = convert(source, tmp_path / "x.h5", captions=splits, split=split)
        assert called in told
        assert f"{len(chosen)} images" in told
        expect(tmp_path / "x.h5", chosen, ids(chosen), has)
    sizes = RegionStore(tmp_path / "x.h5").sizes
    assert sizes.tolist() == [[photo.width, photo.height] for photo in chosen]


def test_tsv_in_parts_with_a_header_a_mark_and_bytes_of_python_3(tmp_path: Path) -> None:
    photos = corpus(6)
    folder = tmp_path / "parts"
    folder.mkdir()
    layouts.tsv(folder / "karpathy.tsv.0", photos[:2], layouts.peteanderson)
    header = "image_id\tnum_boxes\timage_h\timage_w\tfeatures\tboxes\n"
    rows = [
        f"{p.number}\t{len(p.boxes)}\t{p.height}\t{p.width}\tb'{layouts.b64(p.features)}'\tb'{layouts.b64(p.boxes)}'\n\n"
        for p in photos[2:4]
    ]
    (folder / "karpathy.tsv.1").write_text(header + "".join(rows))
    layouts.tsv(folder / "more.tsv", photos[4:], layouts.peteanderson)
    (folder / "more.tsv").write_bytes(b"\xef\xbb\xbf" + (folder / "more.tsv").read_bytes())
    captions = layouts.csv_table(tmp_path / "c.csv", photos, splits=False)
    captions.write_text(captions.read_text("utf-8-sig").replace("COCO_val2014_00000000", ""))
    convert(folder, tmp_path / "x.h5", captions=captions)
    expect(tmp_path / "x.h5", photos, numbers(photos))


@pytest.mark.parametrize("info", [True, False])
def test_npz_folder(tmp_path: Path, info: bool) -> None:
    photos = corpus()
    source = layouts.npz(tmp_path / "a" / "val2014", photos[:5], info).parent
    layouts.npz(source / "train2014", photos[5:], info)
    captions = layouts.karpathy(tmp_path / "dataset.json", photos)
    assert "bottom-up-attention.pytorch's .npz folder\n" in convert(source, tmp_path / "x.h5", captions=captions, split="val")
    expect(tmp_path / "x.h5", dev(photos), names(dev(photos)))


def test_npz_of_ones_own_with_everything(tmp_path: Path) -> None:
    photos = corpus()
    for photo in photos:
        (tmp_path / "a").mkdir(exist_ok=True)
        more = {"objects_id": photo.objects, "scores": photo.scores, "attributes": photo.attributes}
        more |= {"attrs_conf": photo.attribute_scores}
        np.savez(tmp_path / "a" / f"{photo.name}.npz", features=photo.features, boxes=photo.relative, **more)
    layouts.jsonl_table(tmp_path / "a" / "captions.jsonl", photos)
    convert(tmp_path / "a", tmp_path / "x.h5")
    expect(tmp_path / "x.h5", photos, names(photos), EVERYTHING)


@pytest.mark.parametrize("boxes", [True, False])
def test_npy_an_image(tmp_path: Path, boxes: bool) -> None:
    photos = corpus()
    for photo in photos:
        for kind, array in {"features": photo.features, "boxes": photo.relative}.items():
            if kind == "features" or boxes:
                (tmp_path / "a" / kind).mkdir(parents=True, exist_ok=True)
                np.save(tmp_path / "a" / kind / f"{photo.name}.npy", array)
    layouts.csv_table(tmp_path / "a" / "captions.csv", photos)
    assert "a folder of .npy files\n" in convert(tmp_path / "a", tmp_path / "x.h5", split="dev")
    expect(tmp_path / "x.h5", dev(photos), names(dev(photos)), boxes=boxes)


@pytest.mark.parametrize("place", ["{kind}/{split}/2014", "{split}/{kind}", "{split}/{kind}/2014"])
@pytest.mark.parametrize("linked", [False, True])
def test_npy_an_image_in_folders_of_folders(tmp_path: Path, place: str, linked: bool) -> None:
    photos = corpus()
    for photo in photos:
        for kind, array in {"features": photo.features, "boxes": photo.relative}.items():
            folder = tmp_path / "a" / place.format(kind=kind, split=photo.split)
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{photo.name}.npy", array)
    for folder in list((tmp_path / "a").iterdir()) if linked else ():
        folder.rename(tmp_path / folder.name)
        folder.symlink_to(tmp_path / folder.name)
    layouts.csv_table(tmp_path / "a" / "captions.csv", photos)
    convert(tmp_path / "a", tmp_path / "x.h5", split="dev")
    expect(tmp_path / "x.h5", dev(photos), names(dev(photos)))


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_own_pictures_in_one_array(tmp_path: Path, pixels: bool, listed: bool) -> None:
    photos = corpus()
    folder = tmp_path / "a"
    folder.mkdir()
    np.save(folder / "features.npy", layouts.padded([photo.features for photo in photos]))
    np.save(folder / "boxes.npy", layouts.padded([photo.boxes if pixels else photo.relative for photo in photos]))
    np.save(folder / "attributes.npy", layouts.padded([photo.attributes for photo in photos], -1))
    if pixels:
        np.save(folder / "sizes.npy", [[photo.width, photo.height] for photo in photos])
    if listed:
        (folder / "ids.txt").write_text("\n".join(names(photos)))
    layouts.csv_table(folder / "captions.csv", photos)
    assert "own pictures in one array\n" in convert(folder, tmp_path / "x.h5", split="val")
    expected = names(dev(photos)) if listed else [f"{name}.jpg" for name in names(dev(photos))]
    expect(tmp_path / "x.h5", dev(photos), expected, "attributes")


def test_cocos_captions(tmp_path: Path) -> None:
    photos = corpus()
    for columns, ids in ((layouts.peteanderson, numbers), (layouts.lxmert, names)):
        source = layouts.tsv(tmp_path / "a.tsv", photos[::-1], columns)
        convert(source, tmp_path / "x.h5", captions=layouts.coco(tmp_path / "captions_val2014.json", photos[2:5]))
        expect(tmp_path / "x.h5", photos[2:5], ids(photos[2:5]), EVERYTHING if columns is layouts.lxmert else "")


def test_captions_that_two_could_own_are_refused(tmp_path: Path) -> None:
    photos = corpus()
    coco = layouts.coco(tmp_path / "captions_val2014.json", photos[:3])
    content = json.loads(coco.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    coco.write_text(json.dumps(content))
    table = tmp_path / "own.csv"
    table.write_text("image,caption,caption\na.jpg,one,two\n")
    for path, message in (
        (coco, "image 1: id: expected unique ids"),
        (table, "line 1: expected each column once, got 'caption'"),
    ):
        with pytest.raises(DataError, match=message):
            read_captions(path)


def test_a_table_may_have_blanks_after_its_commas(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text('image, caption, split\na.jpg, "two dogs, running", train\nb.jpg, a "big" cup, val \n')
    a, b = read_captions(table).images
    assert (a.texts, a.split) == (["two dogs, running"], "train")
    assert (b.texts, b.split) == (['a "big" cup'], "dev")


def test_layouts_agree(tmp_path: Path) -> None:
    """The same pictures and captions give the same store from whichever layout, ids and extras apart."""
    photos = corpus(ragged=False)
    karpathy = layouts.karpathy(tmp_path / "dataset.json", [photo._replace(split="val") for photo in photos])
    convert(layouts.tsv(tmp_path / "a.tsv", photos, layouts.peteanderson), tmp_path / "a.h5", captions=karpathy, split="dev")
    convert(layouts.precomp(tmp_path / "b", photos, boxes="gsmn"), tmp_path / "b.h5", split="dev")
    assert RegionStore(tmp_path / "a.h5").sha256 == RegionStore(tmp_path / "b.h5").sha256
    assert CaptionStore(tmp_path / "a.captions.h5").sha256 == CaptionStore(tmp_path / "b.captions.h5").sha256


def test_captions_an_image(tmp_path: Path) -> None:
    photos = corpus()
    photos[1] = photos[1]._replace(captions=[*photos[1].captions, "a sixth"])
    source, captions = layouts.tsv(tmp_path / "a.tsv", photos), layouts.karpathy(tmp_path / "d.json", photos)
    convert(source, tmp_path / "x.h5", captions=captions, split="train")
    assert "a sixth" in CaptionStore(tmp_path / "x.captions.h5").texts
    convert(source, tmp_path / "x.h5", captions=captions, split="train", per_image=2)
    train = [photo for photo in photos if photo.split in ("train", "restval")]
    assert CaptionStore(tmp_path / "x.captions.h5").texts == [text for photo in train for text in photo.captions[:2]]


def test_without_captions_all_images_come_in_file_order(tmp_path: Path) -> None:
    photos = corpus()
    assert "no captions (give them with --captions)" in convert(layouts.tsv(tmp_path / "a.tsv", photos), tmp_path / "x.h5")
    assert RegionStore(tmp_path / "x.h5").ids == names(photos)
    assert not (tmp_path / "x.captions.h5").exists()


def test_same_bytes_twice_and_readers_survive_a_process_border(tmp_path: Path) -> None:
    photos = corpus()
    source = layouts.tsv(tmp_path / "a.tsv", photos)
    for name in ("x.h5", "y.h5"):
        convert(source, tmp_path / name)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()
    layouts.precomp(tmp_path / "p", photos), layouts.npz(tmp_path / "n", photos)
    for path in (source, tmp_path / "p", tmp_path / "n"):
        opened = pickle.loads(pickle.dumps(open_regions(path, split="dev")))
        np.testing.assert_array_equal(opened.read(3).features, photos[3].features)


def test_recognition_needs_one_layout(tmp_path: Path) -> None:
    photos = corpus()
    source = layouts.precomp(tmp_path / "a", photos)
    assert recognise(source) == "precomp"
    layouts.tsv(source / "a.tsv", photos)
    with pytest.raises(DataError, match="expected one layout, got precomp and tsv; name one with --layout"):
        recognise(source)
    assert "LXMERT" in convert(source, tmp_path / "x.h5", layout="tsv")
    shutil.rmtree(source)
    source.mkdir()
    with pytest.raises(DataError, match=r"expected region features .* got none; check the folder"):
        recognise(source)


@pytest.mark.skipif(not SAMPLE.exists(), reason="../shared/data/bottom_up_sample is absent")
def test_genuine_tsv(tmp_path: Path) -> None:
    told = convert(SAMPLE, tmp_path / "x.h5", extractor="bottom-up attention")
    assert "LXMERT's columns\n" in told
    assert "10 images × 36 regions × 2048 (float32; boxes, objects, scores, attributes, attribute_scores)" in told
    assert "10 images × 36 regions × 2048, float32" in check(tmp_path / "x.h5")
    store = RegionStore(tmp_path / "x.h5")
    assert store.ids[0] == "COCO_train2014_000000132417"
    assert store.sizes[0].tolist() == [500, 333]
    assert (store.boxes[..., 2:] > store.boxes[..., :2]).all()
    assert store.boxes.max() > 0.98  # boxes reach the far edge of some picture: they were divided by the right side
    assert 0 <= store.labels.min() < store.labels.max() < 1600
    assert 0 <= store.attributes.min() < store.attributes.max() < 400
    assert (store.scores > 0).all()
    assert (store.scores <= 1).all()
    features = store.read(np.arange(10)).features
    assert (features >= 0).all()  # pooled after a ReLU
    assert 0.2 < features.mean() < 2
