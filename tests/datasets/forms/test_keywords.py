"""Keywords in images and sidecars, as photo programs leave them."""

import io

from labelled import lay, list_own, listed
from PIL import Image

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:digiKam="http://www.digikam.org/ns/1.0/"
 xmlns:lr="http://ns.adobe.com/lightroom/1.0/">{}</rdf:Description></rdf:RDF></x:xmpmeta>"""


def bag(name, *items):
    return f"<{name}><rdf:Bag>{''.join(f'<rdf:li>{i}</rdf:li>' for i in items)}</rdf:Bag></{name}>"


def photo(shade, xmp=None, iptc=()):
    buffer = io.BytesIO()
    options = {"xmp": XMP.format(xmp).encode()} if xmp else {}
    Image.new("RGB", (12, 8), (shade, 99, 9)).save(buffer, "JPEG", **options)
    if not iptc:
        return buffer.getvalue()
    records = b"".join(
        b"\x1c\x02\x19" + len(text).to_bytes(2) + text for text in map(str.encode, iptc)
    )
    resource = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4) + records
    data = b"Photoshop 3.0\0" + resource + b"\0" * (len(records) % 2)
    segment = b"\xff\xed" + (len(data) + 2).to_bytes(2) + data
    jpeg = buffer.getvalue()
    return jpeg[:2] + segment + jpeg[2:]


def test_keywords_of_an_archive_by_year(tmp_path):
    files = {
        "2019/a.jpg": photo(1, bag("dc:subject", "sea", "red sky")),
        "2019/b.jpg": photo(2, iptc=["dog", "sea"]),
        "2019/c.jpg": photo(3),
        "2019/c.jpg.xmp": XMP.format(bag("digiKam:TagsList", "Animals/Dog", "Places/Rome")),
        "2020/d.jpg": photo(4, bag("dc:subject", "old")),
        "2020/d.xmp": XMP.format(bag("lr:hierarchicalSubject", "A|new")),
        "2020/e.jpg": photo(5),
        "2020/f.jpg.xmp": "<no packet>",
        "2020/f.jpg": photo(6, bag("dc:subject", "tree")),
    }
    listing = list_own(lay(tmp_path, files))
    assert listing.form.startswith("images with keywords (2019/a.jpg): 2 splits, 5 images")
    assert {file: tags for _, file, tags in listed(listing)} == {
        "2019/a.jpg": ["red sky", "sea"],
        "2019/b.jpg": ["dog", "sea"],
        "2019/c.jpg": ["Dog", "Rome"],
        "2020/d.jpg": ["new"],
        "2020/f.jpg": ["tree"],
    }
    assert ("2020/e.jpg", "it has no keywords") in listing.problems


def test_captions_of_images(tmp_path):
    caption = (
        '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">A sea.</rdf:li></rdf:Alt>'
        "</dc:description>"
    )
    files = {
        "a.jpg": photo(1, bag("dc:subject", "sea") + caption),
        "b.jpg": photo(2, bag("dc:subject", "dog")),
    }
    source = lay(tmp_path, files)
    listing = list_own(source)
    assert any("--as=keywords:captions" in text for text in listing.warnings)
    assert len(listed(listing)) == 2
    assert listed(list_own(source, "keywords:captions")) == [("train", "a.jpg", ["A sea."])]


def test_class_folders_stay_what_they_are(tmp_path):
    files = {f"{name}/a.jpg": photo(n, bag("dc:subject", "x")) for n, name in enumerate("pq")}
    assert "label" in list_own(lay(tmp_path, files)).features
