"""The table, the sidecar files and the gallery that annotate writes besides its lines."""

import csv
import io
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from prediction_rows import HOSTILE, make_rows, write

from jaxtag.data.spreadsheet import unescape_cell
from jaxtag.datasets import annotation_tables
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.inference import writers
from jaxtag.inference.writers.xmp import document

DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


@pytest.fixture
def lines(tmp_path) -> list[dict]:
    return make_rows(tmp_path)


def read_table(path: Path) -> list[dict]:
    text = path.read_text("utf-8")
    assert text.startswith("\ufeff")  # by which spreadsheets know UTF-8
    return list(csv.DictReader(text[1:].splitlines(keepends=True)))


def test_table(lines, tmp_path):
    write(writers.CsvWriter(tmp_path / "t.csv"), [lines[4], *lines[:3]])
    rows = read_table(tmp_path / "t.csv")
    assert list(rows[0]) == ["file", "tags", "scores", "error"]
    assert [row["file"] for row in rows] == [line["file"] for line in [lines[4], *lines[:3]]]
    assert rows[0]["error"] == "the file is empty"
    assert (rows[1]["tags"], rows[1]["scores"]) == ("dog; grass", "0.9; 0.4")
    assert rows[3]["tags"] == f"{HOSTILE}; a; b, c"
    write(writers.CsvWriter(tmp_path / "t.csv"), [{"file": "a", "caption": "a line, & more"}])
    assert read_table(tmp_path / "t.csv") == [
        {"file": "a", "caption": "a line, & more", "error": ""}
    ]
    write(writers.CsvWriter(tmp_path / "t.csv"), lines[4:])
    assert read_table(tmp_path / "t.csv")[0]["error"] == "the file is empty"


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    captions = ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "'=x", "'quoted'", "\t=1", "＝1"]
    rows = [{"file": f"{c}.jpg", "caption": c} for c in captions]
    write(writers.CsvWriter(tmp_path / "t.csv"), rows)
    cells = read_table(tmp_path / "t.csv")
    for row, caption in zip(cells, captions, strict=True):
        assert row["caption"] == (caption if caption == "'quoted'" else f"'{caption}")
        assert unescape_cell(row["caption"]) == caption
        assert row["file"][0] not in "=+-@\t＝"
    assert cells[0]["file"] == "./=1+1.jpg"


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_is_written_is_a_table_of_tags(tmp_path, suffix):
    """Which jaxtag.prepare and jaxtag.index read."""
    writer = {"csv": writers.CsvWriter, "jsonl": writers.JsonlWriter}[suffix]
    tags = [{"tag": "dog", "score": 0.9}, {"tag": "=wet", "score": 0.5}]
    rows = [{"file": "a.jpg", "tags": tags}, {"file": "b.jpg", "error": "damaged JPEG"}]
    write(writer(tmp_path / f"out.{suffix}"), rows)
    with SourceFiles(tmp_path, lambda name: False) as source:
        table = annotation_tables.read_table(source, f"out.{suffix}")
    assert (table.rows[0].file, table.rows[0].texts) == ("a.jpg", ["dog", "=wet"])
    assert [row.texts for row in table.rows[1:]] == ([[]] if suffix == "csv" else [])
    assert len(table.problems) == (suffix == "jsonl") and not table.warnings


def items(path: Path, element: str = f"{DC}subject") -> list[str]:
    """The texts of a field of a sidecar."""
    root = ElementTree.parse(path).getroot()
    return [item.text for field in root.iter(element) for item in field.iter(f"{RDF}li")]


def test_sidecars_hold_keywords(lines, tmp_path):
    write(writers.XmpWriter(0.5), lines)
    results = sorted(path.name for path in (tmp_path / "album").glob("*.xmp"))
    assert results == sorted(f"{Path(line['file']).name}.xmp" for line in lines[:4])
    assert not list((tmp_path / "album").glob(".*"))
    root = ElementTree.parse(f"{lines[2]['file']}.xmp").getroot()
    assert items(f"{lines[2]['file']}.xmp") == [HOSTILE, "a; b, c"]
    assert next(root.iter(f"{DC}subject"))[0].tag == f"{RDF}Bag"
    assert items(f"{lines[0]['file']}.xmp") == ["dog"]  # grass is below 0.5
    last = ElementTree.parse(f"{lines[3]['file']}.xmp").getroot()
    assert next(last.iter(f"{DC}description"))[0][0].text == "a red line & nothing else"


def tag_row(file: Path, *tags: str) -> dict:
    return {"file": str(file), "tags": [{"tag": tag, "score": 0.9} for tag in tags]}


def test_a_sidecar_is_merged_field_by_field(lines):
    file = Path(lines[0]["file"])
    path = Path(f"{file}.xmp")
    write(writers.XmpWriter(0.5), [tag_row(file, "dog", "grass")])
    write(writers.XmpWriter(0.5), [{"file": str(file), "caption": "a dog"}])
    assert items(path) == ["dog", "grass"] and items(path, f"{DC}description") == ["a dog"]
    # Somebody adds a keyword, deletes another, and corrects the caption.
    text = path.read_text("utf-8")
    text = text.replace("<rdf:li>grass</rdf:li>", "<rdf:li>Rex</rdf:li>", 1)
    text = text.replace(">a dog<", ">Rex in the garden<", 1)
    path.write_text(text, "utf-8")
    write(writers.XmpWriter(0.5), [tag_row(file, "cat", "grass") | {"caption": "a cat"}])
    assert items(path) == ["Rex", "cat"]
    assert items(path, f"{DC}description") == ["Rex in the garden"]
    write(writers.XmpWriter(0.5), [tag_row(file)])  # no tag reaches its threshold any more
    assert items(path) == ["Rex"]
    write(writers.XmpWriter(0.5), [tag_row(file, "grass", "sea")])
    assert items(path) == ["Rex", "sea"]
    content, changed = path.read_bytes(), path.stat().st_mtime_ns
    write(writers.XmpWriter(0.5), [tag_row(file, "grass", "sea")])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, changed)


def test_a_sidecar_of_ours_that_another_program_edited_keeps_its_fields(lines):
    file = Path(lines[0]["file"])
    path = Path(f"{file}.xmp")
    write(writers.XmpWriter(0.5), [tag_row(file, "dog")])
    edited = path.read_text("utf-8").replace('x:xmptk="jaxtag"', 'x:xmptk="Image::ExifTool 12"')
    rating = ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"'
    edited = edited.replace("<rdf:Description", f"<rdf:Description{rating}")
    edited = edited.replace("<rdf:li>dog</rdf:li>", "<rdf:li>dog</rdf:li><rdf:li>mine</rdf:li>", 1)
    path.write_text(edited, "utf-8")
    writer = writers.XmpWriter(0.5)
    write(writer, [tag_row(file, "cat")])
    assert writer.num_skipped == 0 and items(path) == ["mine", "cat"]
    assert 'xmp:Rating="5"' in path.read_text("utf-8")


PACKET = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF[1:-1]}"><rdf:Description '
    f'xmlns:dc="{DC[1:-1]}" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"><dc:subject>'
    "<rdf:Bag><rdf:li>family</rdf:li><rdf:li>holiday</rdf:li></rdf:Bag></dc:subject>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_new_sidecar_holds_what_the_picture_carries(tmp_path, suffix):
    picture, file = Image.new("RGB", (8, 8)), tmp_path / f"a.{suffix}"
    text, tags = PngImagePlugin.PngInfo(), TiffImagePlugin.ImageFileDirectory_v2()
    text.add_itxt("XML:com.adobe.xmp", PACKET)
    tags[700] = PACKET.encode()
    options = {"png": {"pnginfo": text}, "tif": {"tiffinfo": tags}}
    picture.save(file, **options.get(suffix, {"xmp": PACKET.encode()}))
    for keywords in (["cat", "family"], ["dog"]):
        write(writers.XmpWriter(0.5), [tag_row(file, *keywords)])
        expected = ["family", "holiday", keywords[0]]
        assert items(f"{file}.xmp") == expected
    assert 'xmp:Rating="4"' in Path(f"{file}.xmp").read_text("utf-8")
    write(writers.XmpWriter(0.5), [tag_row(file)])
    assert items(f"{file}.xmp") == ["family", "holiday"]


def test_keywords_and_captions_of_iptc_and_exif_are_kept(tmp_path):
    exif = Image.Exif()
    exif[0x9C9E] = "x; ÿ".encode("utf-16-le") + b"\0\0"  # Windows' keywords
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    iptc = b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(value)) + value
        for number, value in ((25, "Mühle".encode()), (25, b"sea"), (120, b"By the sea"))
    )
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc
    block += b"\0" * (len(iptc) % 2)
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    file, jpeg = tmp_path / "a.jpg", buffer.getvalue()
    file.write_bytes(jpeg[:2] + segment + jpeg[2:])
    write(writers.XmpWriter(0.5), [tag_row(file, "cat") | {"caption": "a mill"}])
    assert items(f"{file}.xmp") == ["Mühle", "sea", "x", "ÿ", "cat"]
    assert items(f"{file}.xmp", f"{DC}description") == ["By the sea"]


def test_sidecars_of_other_programs_stay(lines, caplog):
    path = Path(f"{lines[0]['file']}.xmp")
    path.write_text("<x:xmpmeta x:xmptk='somebody'>edits</x:xmpmeta>")
    beside = Path(lines[1]["file"]).with_suffix(".xmp")  # as Lightroom names it
    beside.write_text(PACKET)
    writer = writers.XmpWriter(0.5)
    write(writer, lines)
    assert path.read_text().count("edits") == 1
    assert beside.read_text() == PACKET and not Path(f"{lines[1]['file']}.xmp").exists()
    assert writer.num_skipped == 2
    assert f"{path} is of another program" in caplog.records[0].getMessage()
    for hostile in ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + PACKET, "<" * 100_000, "", "\0"):
        path.write_text(hostile)
        write(writers.XmpWriter(0.5), lines[:1])
        assert path.read_text() == hostile


def test_sidecars_of_0_1_keep_their_keywords(lines):
    """They do not say what jaxtag wrote and what somebody added."""
    path = Path(f"{lines[0]['file']}.xmp")
    path.write_text(PACKET.replace("<x:xmpmeta", "<x:xmpmeta x:xmptk='jaxtag'", 1))
    write(writers.XmpWriter(0.5), [tag_row(Path(lines[0]["file"]), "dog")])
    assert items(path) == ["family", "holiday", "dog"]


def test_sidecars_that_cannot_be_written_are_counted(lines, caplog):
    writer = writers.XmpWriter(0.5)
    absent = [{**lines[0], "file": f"/absent/\x1b[2Jfolder/{n}.jpg"} for n in range(3)]
    write(writer, [*absent, lines[1]])
    assert writer.num_failed == 3
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "/absent/\\x1b[2Jfolder/0.jpg.xmp cannot be written: No such file or directory",
        "3 sidecar file(s) could not be written",
    ]
    assert Path(f"{lines[1]['file']}.xmp").exists()


def test_sidecars_are_xml_whatever_a_tag_holds():
    text = document(["nul\0", "half \udc80", "\ufffe", "]]> & <b>"], "").decode()
    root = ElementTree.fromstring(text.split("?>", 1)[1].rsplit("<?", 1)[0])
    keywords = [item.text for item in next(root.iter(f"{DC}subject")).iter(f"{RDF}li")]
    assert keywords == ["nul", "half ", "]]> & <b>"]
