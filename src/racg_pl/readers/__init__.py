"""What users of this field have on disk, each layout read by one small module into one record.

    region features                              captions and splits
    precomp       SCAN, with GSMN's boxes        karpathy   dataset_flickr30k.json, dataset_coco.json
    vse_infinity  the same and id_mapping.json   coco       captions_train2014.json
    tsv           bottom-up attention, LXMERT    table      CSV, JSON-lines
    folder        .npz or .npy files, one an image
    own           one array and its names

Phrases with boxes: entities, Flickr30k Entities. picture.py has the record, stacked.py what arrays of all images share, arrays.py and
files.py what reads and refuses files.
"""

from __future__ import annotations

from pathlib import Path

from racg_pl.errors import DataError
from racg_pl.readers import folder, own, precomp, tsv, vse_infinity
from racg_pl.readers.captions import CaptionFile
from racg_pl.readers.picture import Regions

LAYOUTS = ("precomp", "vse-infinity", "tsv", "folder", "own")
REFUSED = {
    **dict.fromkeys(
        (".pkl", ".pickle", ".p", ".pt", ".pth", ".bin"), "a pickle, which is never loaded; save arrays with np.save"
    ),
    **dict.fromkeys((".h5", ".hdf5"), "an HDF5 file; if racg wrote it, it needs no conversion: try racg check"),
    ".npz": "one .npz file; name the folder that holds one an image",
    ".json": "captions, not features; give them with --captions",
}


def recognise(source: Path) -> str:
    """The layout of a file or folder. Raises: DataError if it is none, or could be two."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; check the path")
    if source.is_file():
        if why := REFUSED.get(source.suffix.lower()):
            raise DataError(f"{source}: expected region features, got {why}")
        if source.suffix == ".npy":
            known = source.name.endswith(precomp.FEATURES)
            how = (
                f"with --split {source.name.removesuffix(precomp.FEATURES)}"
                if known
                else f"in which it is called {own.FEATURES}"
            )
            raise DataError(f"{source}: expected the folder of an array, got the file; name {source.parent} {how}")
        return "tsv"
    found = {
        "vse-infinity": vse_infinity.recognise(source),
        "precomp": bool(precomp.splits(source)) and not vse_infinity.recognise(source),
        "tsv": bool(tsv.parts(source)),
        "own": (source / own.FEATURES).is_file(),
    }
    layouts = [name for name, there in found.items() if there] or (["folder"] if folder.files(source) else [])
    if not layouts:
        raise DataError(
            f"{source}: expected region features (*{precomp.FEATURES}, *.tsv, .npz or .npy files, or {own.FEATURES}), got none; "
            "check the folder"
        )
    if len(layouts) > 1:
        raise DataError(f"{source}: expected one layout, got {' and '.join(layouts)}; name one with --layout")
    return layouts[0]


def open_regions(
    source: Path,
    layout: str | None = None,
    split: str | None = None,
    captions: CaptionFile | None = None,
    progress: bool = False,
) -> Regions:
    """Open the features of a source, and the captions that its layout brings.

    Args:
        layout: one of LAYOUTS; by default it is recognised.  split: of a layout that has a file a split.
        captions: those given beside the source; they name the rows of an array without names.
    Raises: DataError.
    """
    layout = layout or recognise(source)
    if layout not in LAYOUTS:
        raise DataError(f"{source}: expected one of the layouts {', '.join(LAYOUTS)}, got {layout!r}")
    if layout == "precomp":
        return precomp.open_precomp(source, split)
    if layout == "vse-infinity":
        return vse_infinity.open_vse_infinity(source, split)
    if layout == "tsv":
        return tsv.open_tsv(source, progress)
    return folder.open_folder(source, progress) if layout == "folder" else own.open_own(source, captions)
