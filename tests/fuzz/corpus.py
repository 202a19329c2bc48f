"""The sound files that are mutated, by kind."""

import functools
import gzip
import importlib.util
import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from labelled import packed, picture, zipped
from PIL import Image, features

_DATASETS = Path(__file__).parents[1] / "datasets"


@dataclass(frozen=True)
class Item:
    """Files that one check reads.

    Attributes:
        name: for people.
        check: of `targets.CHECKS`.
        files: relative path -> content.
        mutable: those that are changed.
    """

    name: str
    check: str
    files: dict[str, bytes]
    mutable: tuple[str, ...]


def _item(name: str, check: str, files: dict[str, bytes | str], mutable=None) -> Item:
    contents = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    return Item(name, check, contents, tuple(mutable or contents))


@functools.cache
def items(kind: str) -> list[Item]:
    """The items of "images", "tables", "archives", "official", "forms", "runs", or of "all".

    Those of "faulty" are at fault, each in another way.
    """
    if kind == "all":
        return [item for make in _KINDS.values() for item in make()]
    if kind == "faulty":
        return [_item(name, name, {"x": "x"}) for name in ("crash", "hang", "bomb", "traceback")]
    return _KINDS[kind]()


def _scene(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    scene = np.stack([columns * 3, rows * 4, rows + columns], -1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 40, scene.shape, np.uint8)
    return Image.fromarray(scene // 2 + noise)


def _encoded(kind: str, mode: str = "RGB", size=(40, 56), **options) -> bytes:
    buffer = io.BytesIO()
    _scene(*size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _images() -> list[Item]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x010E] = 6, "Maker", "a description"
    frames = [_scene(20, 24).convert("P") for _ in range(3)]
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF tiff:Orientation='3'/></x:xmpmeta>"
    kinds: dict[str, bytes] = {
        "baseline.jpg": _encoded("JPEG"),
        "exif.jpg": _encoded("JPEG", exif=exif, comment=b"x"),
        "progressive.jpg": _encoded("JPEG", progressive=True),
        "restarts.jpg": _encoded("JPEG", restart_marker_rows=1),
        "gray.jpg": _encoded("JPEG", "L"),
        "cmyk.jpg": _encoded("JPEG", "CMYK"),
        "full.jpg": _encoded("JPEG", subsampling=0, xmp=xmp),
        "progressive cmyk.jpg": _encoded("JPEG", "CMYK", progressive=True),
        "large.jpg": _encoded("JPEG", size=(200, 300)),
        "plain.png": _encoded("PNG"),
        "alpha.png": _encoded("PNG", "RGBA", exif=exif),
        "palette.png": _encoded("PNG", "P", transparency=3),
        "bits.png": _encoded("PNG", "1"),
        "deep.png": _encoded("PNG", "I;16"),
        "animated.png": _encoded("PNG", save_all=True, append_images=[_scene(40, 56)]),
        "lossy.webp": _encoded("WEBP", exif=exif),
        "lossless.webp": _encoded("WEBP", "RGBA", lossless=True, xmp=xmp),
        "animated.webp": _encoded("WEBP", save_all=True, append_images=[_scene(40, 56)]),
        "still.gif": _encoded("GIF", "P", comment=b"x"),
        "animated.gif": _encoded("GIF", "P", save_all=True, append_images=frames, transparency=1),
        "raw.tif": _encoded("TIFF", exif=exif),
        "lzw.tif": _encoded("TIFF", compression="tiff_lzw"),
        "deflate.tif": _encoded("TIFF", "RGBA", compression="tiff_adobe_deflate"),
        "jpeg.tif": _encoded("TIFF", compression="jpeg"),
        "packbits.tif": _encoded("TIFF", "L", compression="packbits"),
        "group4.tif": _encoded("TIFF", "1", compression="group4"),
        "plain.bmp": _encoded("BMP"),
        "palette.bmp": _encoded("BMP", "P"),
        "plain.ppm": _encoded("PPM"),
        "plain.jp2": _encoded("JPEG2000"),
        "lossy.jp2": _encoded("JPEG2000", irreversible=True, quality_layers=[20, 10]),
        "tiles.j2k": _encoded("JPEG2000", tile_size=(16, 16), no_jp2=True),
    }
    if features.check("avif"):
        kinds["plain.avif"] = _encoded("AVIF", quality=40)
        kinds["alpha.avif"] = _encoded("AVIF", "RGBA", exif=exif)
    return [_item(name, "image", {name: content}) for name, content in kinds.items()]


def _names(count: int = 8) -> list[str]:
    return [f"{n}.jpg" for n in range(count)]


def _coco(annotations: list[dict]) -> str:
    return json.dumps(
        {
            "info": {"year": 2017},
            "images": [
                {"id": n, "file_name": name, "height": 8} for n, name in enumerate(_names())
            ],
            "categories": [{"id": 1, "name": "a", "supercategory": "s"}, {"id": 2, "name": "b"}],
            "annotations": annotations,
        }
    )


def _tables() -> list[Item]:
    images: dict[str, bytes | str] = {name: picture(20 * n) for n, name in enumerate(_names())}
    split = ["train"] * 6 + ["val"] * 2

    def rows(line: str, separator: str = "\n") -> str:
        numbers = range(8)
        return separator.join(line.format(n=n, split=split[n], m=n % 2) for n in numbers) + "\n"

    tables: dict[str, str] = {
        "captions.csv": "file,caption,split\n" + rows('{n}.jpg,"a dog, {n}",{split}'),
        "tags.csv": "file,tags,unknown_tags,group\n" + rows("{n}.jpg,a;b{m},c,g{m}"),
        "labels.csv": "id,breed\n" + rows("{n},kind {m}"),
        "hot.csv": "file,sea,sky,is_valid\n" + rows("{n}.jpg,{m},1,{m}"),
        "semicolons.csv": "file;caption\n" + rows("{n}.jpg;a dog"),
        "captions.tsv": "file\tcaption\n" + rows("{n}.jpg\ta dog"),
        "captions.jsonl": rows('{{"file": "{n}.jpg", "captions": ["a", "b"], "split": "{split}"}}'),
        "tags.jsonl": rows(
            '{{"file": "{n}.jpg", "tags": ["a", "b"], "unknown_tags": ["c"], "group": "g{m}"}}'
        ),
        "annotated.jsonl": rows('{{"file": "{n}.jpg", "tags": [{{"tag": "a", "score": 0.5}}]}}'),
        "captions.json": _coco([{"id": n, "image_id": n, "caption": "x"} for n in range(8)]),
        "instances.json": _coco(
            [{"id": n, "image_id": n, "category_id": 1 + n % 2} for n in range(8)]
        ),
        "tags.json": json.dumps(
            [{"file": name, "tags": ["a", "b"], "split": "train"} for name in _names()]
        ),
        "list.json": json.dumps([{"file_name": name, "captions": ["a"]} for name in _names()]),
        "metadata.jsonl": rows('{{"file_name": "{n}.jpg", "text": "a dog"}}'),
    }
    found = [_item(name, "own", {**images, name: text}, [name]) for name, text in tables.items()]
    results = json.dumps([{"image_id": n, "caption": "a dog"} for n in range(8)])
    references = _coco([{"id": n, "image_id": n, "caption": "a dog"} for n in range(8)])
    scored = {"results.json": results, "references.json": references}
    found.append(_item("results", "scores", scored))
    lines = rows('{{"file": "{n}.jpg", "caption": "a dog"}}')
    del scored["results.json"]
    found.append(_item("lines", "scores", {**scored, "results.jsonl": lines}))
    return found


def _archives() -> list[Item]:
    content: dict[str, bytes | str] = {
        f"{label}/{n}.jpg": picture(9 * n) for n in range(3) for label in ("cat", "dog")
    }
    table: dict[str, bytes | str] = {name: picture(20 * n) for n, name in enumerate(_names(4))}
    table["captions.csv"] = "file,caption\n" + "".join(f"{name},a dog\n" for name in _names(4))
    archives = {}
    for name, files in (("classes", content), ("table", table)):
        archives[f"{name}.zip"] = zipped(files)
        archives[f"{name}.tar"] = packed(files)
        archives[f"{name}.tar.gz"] = packed(files, "w:gz")
        archives[f"{name}.tar.bz2"] = packed(files, "w:bz2")
        archives[f"{name}.tar.xz"] = packed(files, "w:xz")
    archives["deflated.zip"] = _deflated(table)
    return [_item(name, "archive", {name: data}) for name, data in archives.items()]


def _deflated(files: dict[str, bytes | str]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _test_module(name: str) -> ModuleType:
    """A file of tests, for the official layouts that it lays out."""
    spec = importlib.util.spec_from_file_location(
        f"fuzzed_{Path(name).name}", _DATASETS / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _official() -> list[Item]:
    small, voc = _test_module("test_small"), _test_module("test_voc2007")
    nus, corel = _test_module("test_nus_wide"), _test_module("test_corel5k")
    mirflickr, coco = _test_module("test_mirflickr25k"), _test_module("test_coco_tags")
    imagenet = _test_module("test_imagenet")
    layouts = {
        "mnist": [small.mnist(), small.mnist(pack=gzip.compress, ending=".gz")],
        "cifar10": [small.cifar10_python(), small.cifar10_binary()],
        "cifar100": [small.cifar100_python(), small.cifar100_binary()],
        "voc2007": [voc.devkit("train", "val", "test")],
        "nus_wide": [nus.FORMS["unpacked"], nus.FORMS["by part alone"]],
        "corel5k": [corel.FORMS["labels"], corel.FORMS["2002"]],
        "mirflickr25k": [mirflickr.collection() | {f"a/{n}": t for n, t in mirflickr.TAGS.items()}],
        "coco_tags": [coco.coco()],
        "imagenet2012": [imagenet.official_imagenet()],
    }
    tokens = "".join(f"{n}.jpg#{k}\ta dog\n" for n in range(6) for k in range(5))
    layouts["flickr8k_captions"] = [
        {
            **{f"Flicker8k_Dataset/{n}.jpg": picture(n) for n in range(6)},
            "Flickr8k.token.txt": tokens,
            "Flickr_8k.trainImages.txt": "0.jpg\n1.jpg\n2.jpg\n",
            "Flickr_8k.devImages.txt": "3.jpg\n",
            "Flickr_8k.testImages.txt": "4.jpg\n5.jpg\n",
        }
    ]
    layouts["coco_captions"] = [
        {
            **{f"{part}2017/{n}.jpg": picture(n) for part in ("train", "val") for n in range(3)},
            **{
                f"annotations/captions_{part}2017.json": json.dumps(
                    {
                        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
                        "annotations": [
                            {"id": n, "image_id": n, "caption": "a dog"} for n in range(3)
                        ],
                    }
                )
                for part in ("train", "val")
            },
        }
    ]
    entries = [
        {"filename": f"{n}.jpg", "filepath": "train2017", "cocoid": n, "split": split,
         "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}]}
        for n, split in enumerate(("train", "restval", "val"))
    ]  # fmt: skip
    (coco_captions,) = layouts["coco_captions"]
    pictures = {name: data for name, data in coco_captions.items() if name.endswith(".jpg")}
    karpathy = json.dumps({"images": entries, "dataset": "coco"})
    layouts["coco_captions"].append({**pictures, "dataset_coco.json": karpathy})
    found = []
    for name, forms in layouts.items():
        for number, files in enumerate(forms):
            mutable = [path for path in files if not path.lower().endswith((".jpg", ".jpeg"))]
            found.append(_item(f"{name} {number}", f"official {name}", files, mutable))
    return found


def _forms() -> list[Item]:
    import form_files

    tests = [_test_module(f"forms/test_{name}") for name in ("layout_forms", "parquet")]
    forms = form_files.forms(*tests)
    return [
        _item(name, "form", files, [n for n in files if not n.endswith(".jpg")] or list(files))
        for name, files in forms.items()
    ]


def _runs() -> list[Item]:
    """The files of runs, of indexes, of weights and of prepared data sets."""
    import run_files

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (check, write) in run_files.WRITERS.items():
            root = Path(folder) / name
            root.mkdir()
            write(root)
            files = {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in sorted(root.rglob("*"))
                if path.is_file() and not path.name.startswith(".")
            }
            mutable = [name for name in files if not name.endswith((".jpg", "source.csv"))]
            found.append(_item(name, check, files, mutable))
    return found


_KINDS = {
    "images": _images,
    "tables": _tables,
    "archives": _archives,
    "official": _official,
    "forms": _forms,
    "runs": _runs,
}
