"""Rows that annotate writes, for the tests of its writers."""

from pathlib import Path

from PIL import Image

HOSTILE = '<img src=x onerror="document.title=1">'


def make_rows(folder: Path) -> list[dict]:
    """Rows of five files, one of them broken, with names and tags of all kinds."""
    album = folder / "album"
    album.mkdir()
    names = ["dog.jpg", "déjà:vu #1.png", f"{HOSTILE.replace('/', '')}.png", "tall.png"]
    sizes = [(640, 480), (50, 40), (30, 30), (10, 900)]
    for name, size in zip(names, sizes, strict=True):
        Image.new("RGB", size, (200, 30, 30)).save(album / name)
    tags = [
        [("dog", 0.9), ("grass", 0.4)],
        [("cat", 0.8), ("dog", 0.6)],
        [(HOSTILE, 0.7), ("a; b, c", 0.6)],
        [],
    ]
    results = [
        {"file": str(album / name), "tags": [{"tag": t, "score": s} for t, s in one]}
        for name, one in zip(names, tags, strict=True)
    ]
    results[3]["caption"] = "a red line & nothing else"
    results.append({"file": str(album / "broken.jpg"), "error": "the file is empty"})
    (album / "broken.jpg").touch()
    return results


def write(writer, rows: list[dict]) -> None:
    for row in rows:
        writer.write(row)
    writer.close()
