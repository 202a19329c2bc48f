"""Sidecars as digiKam, Lightroom, darktable and Immich write them: read, merged, otherwise kept.

Made up in the layout of each program: digiKam and darktable write through exiv2 (attributes on
lines of their own), Lightroom through Adobe's toolkit, Immich through exiftool (single quotes, a
description for each namespace).
"""

import difflib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from jaxtag.data.xmp_packet import XmpPacket
from jaxtag.errors import UsageError
from jaxtag.inference.writers import XmpWriter
from jaxtag.inference.writers.sidecar_programs import get_program

DC = "http://purl.org/dc/elements/1.1/"
DIGIKAM_NS = "http://www.digikam.org/ns/1.0/"
LR = "http://ns.adobe.com/lightroom/1.0/"

DIGIKAM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:digiKam="http://www.digikam.org/ns/1.0/"
    xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   digiKam:PickLabel="0"
   xmp:Rating="4"
   MicrosoftPhoto:Rating="75">
   <digiKam:TagsList>
    <rdf:Seq>
     <rdf:li>Places/Paris</rdf:li>
     <rdf:li>Tiere/dog</rdf:li>
    </rdf:Seq>
   </digiKam:TagsList>
   <MicrosoftPhoto:LastKeywordXMP>
    <rdf:Bag>
     <rdf:li>Places/Paris</rdf:li>
    </rdf:Bag>
   </MicrosoftPhoto:LastKeywordXMP>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>Places|Paris</rdf:li>
     <rdf:li>Tiere|dog</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Paris</rdf:li>
     <rdf:li>dog</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
LIGHTROOM = """<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
   xmp:CreatorTool="Adobe Photoshop Lightroom Classic 13.0 &gt; (Windows)"
   crs:Exposure2012="+0.20">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Paris</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>Places|Paris</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <crs:ToneCurvePV2012>
    <rdf:Seq>
     <rdf:li>0, 0</rdf:li>
     <rdf:li>255, 255</rdf:li>
    </rdf:Seq>
   </crs:ToneCurvePV2012>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:darktable="http://darktable.sf.net/"
   xmpMM:DerivedFrom="photo.jpg"
   darktable:xmp_version="5"
   darktable:history_end="1">
   <darktable:masks_history>
    <rdf:Seq/>
   </darktable:masks_history>
   <darktable:history>
    <rdf:Seq>
     <rdf:li
      darktable:num="0"
      darktable:operation="colorin"
      darktable:params="gz48eJzjZBgFowABWAbaAaNgwAEAEDgABg=="
      darktable:multi_name=""/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
IMMICH = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 13.00'>
<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>

 <rdf:Description rdf:about=''
  xmlns:exif='http://ns.adobe.com/exif/1.0/'>
  <exif:GPSLatitude>48,51.2046N</exif:GPSLatitude>
 </rdf:Description>

 <rdf:Description rdf:about=''
  xmlns:digiKam='http://www.digikam.org/ns/1.0/'>
  <digiKam:TagsList>
   <rdf:Seq>
    <rdf:li>People/Marie Curie</rdf:li>
   </rdf:Seq>
  </digiKam:TagsList>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""
PROGRAMS = {
    "digikam": ("photo.jpg.xmp", DIGIKAM),
    "lightroom": ("photo.xmp", LIGHTROOM),
    "darktable": ("photo.jpg.xmp", DARKTABLE),
    "immich": ("photo.jpg.xmp", IMMICH),
}


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def annotate(photo: Path, program: str, *tags: str, caption: str | None = None) -> XmpWriter:
    row = {"file": str(photo), "tags": [{"tag": tag, "score": 0.9} for tag in tags]}
    writer = XmpWriter(0.5, get_program(program))
    writer.write(row if caption is None else row | {"caption": caption})
    writer.close()
    return writer


def lists(path: Path) -> dict[str, list[str]]:
    """The keywords of a sidecar, as exiftool reads them where it is installed."""
    packet = XmpPacket(path.read_bytes())
    fields = {"Subject": (DC, "subject"), "TagsList": (DIGIKAM_NS, "TagsList")}
    fields["HierarchicalSubject"] = (LR, "hierarchicalSubject")
    values = {name: packet.items(*field) for name, field in fields.items()}
    if shutil.which("exiftool"):
        command = ["exiftool", "-json", *(f"-{name}" for name in fields), path]
        done = subprocess.run(command, capture_output=True, check=True)
        (read,) = json.loads(done.stdout)
        for name, texts in values.items():
            value = read.get(name, [])
            assert (value if isinstance(value, list) else [value]) == texts
    return {name: texts for name, texts in values.items() if texts}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_programs_own_sidecar_keeps_every_byte_but_the_keywords(photo, program):
    name, text = PROGRAMS[program]
    path = photo.with_name(name)
    path.write_text(text, "utf-8")
    before = lists(path)
    annotate(photo, program)  # nothing to say
    assert path.read_text("utf-8") == text
    writer = annotate(photo, program, "sea", "Wald & Wiese", caption="a <dog>")
    assert (writer.num_skipped, writer.num_failed) == (0, 0)
    changed = path.read_text("utf-8")
    removed = [line for line in difflib.ndiff(text.split("\n"), changed.split("\n"))]
    assert not [line for line in removed if line.startswith("- ")]
    after = lists(path)
    assert "sea" in after["Subject"]
    for field, texts in before.items():
        assert after[field] == [*texts, "sea", "Wald & Wiese"]
    assert 'x-default">a &lt;dog&gt;</rdf:li>' in changed
    annotate(photo, program, "sea", "Wald & Wiese", caption="a <dog>")
    assert path.read_text("utf-8") == changed
    annotate(photo, program, caption="")  # what jaxtag wrote goes again, without a trace
    assert path.read_text("utf-8") == text
    assert not list(photo.parent.glob("*.partial"))


def test_keywords_are_added_where_no_path_ends_with_them(photo):
    path = Path(f"{photo}.xmp")
    path.write_text(DIGIKAM, "utf-8")
    annotate(photo, "digikam", "dog", "sea", "land/water")
    assert lists(path) == {
        "Subject": ["Paris", "dog", "sea", "land/water"],
        "TagsList": ["Places/Paris", "Tiere/dog", "sea"],
        "HierarchicalSubject": ["Places|Paris", "Tiere|dog", "sea", "land/water"],
    }
    # Deleted in digiKam, it does not come back.
    text = path.read_text("utf-8")
    path.write_text(text.replace("\n     <rdf:li>sea</rdf:li>", "", 3), "utf-8")
    assert "sea" not in str(lists(path))
    annotate(photo, "digikam", "dog", "sea", "tree")
    assert lists(path)["Subject"] == ["Paris", "dog", "tree"]
    assert lists(path)["TagsList"] == ["Places/Paris", "Tiere/dog", "tree"]


@pytest.mark.parametrize(
    ("program", "fields"),
    [
        ("digikam", {"Subject", "TagsList", "HierarchicalSubject"}),
        ("lightroom", {"Subject", "HierarchicalSubject"}),
        ("darktable", {"Subject", "HierarchicalSubject"}),
        ("immich", {"Subject", "TagsList"}),
        ("any", {"Subject"}),
    ],
)
def test_a_new_sidecar_has_the_name_and_the_fields_that_a_program_reads(photo, program, fields):
    annotate(photo, program, "sea")
    (path,) = photo.parent.glob("*.xmp")
    assert path.name == PROGRAMS.get(program, ("photo.jpg.xmp",))[0]
    assert lists(path) == {field: ["sea"] for field in fields}


def test_immich_reads_the_other_name_too(photo):
    other = photo.with_suffix(".xmp")
    other.write_text(LIGHTROOM, "utf-8")
    annotate(photo, "immich", "sea")
    assert lists(other)["TagsList"] == ["sea"]
    assert [path.name for path in photo.parent.glob("*.xmp")] == ["photo.xmp"]
    # digiKam would no longer see it beside a sidecar of its own name.
    writer = annotate(photo, "digikam", "tree")
    assert writer.num_skipped == 1 and "tree" not in other.read_text("utf-8")


def test_two_images_do_not_share_a_sidecar(photo, caplog):
    other = photo.with_suffix(".png")
    Image.new("RGB", (8, 8)).save(other)
    writer = XmpWriter(0.5, get_program("lightroom"))
    for file, tag in ((photo, "sea"), (other, "tree")):
        writer.write({"file": str(file), "tags": [{"tag": tag, "score": 0.9}]})
    assert lists(photo.with_suffix(".xmp"))["Subject"] == ["sea"]
    assert writer.num_skipped == 1 and "sidecar of two images" in caplog.text


@pytest.mark.parametrize(
    "subject",
    [
        '<rdf:Description rdf:about="" dc:subject="sea" xmlns:dc="DC"/>',
        '<rdf:Description xmlns:dc="DC"><dc:subject>sea</dc:subject></rdf:Description>',
        '<rdf:Description rdf:about="" a="x>y" xmlns:d="DC"><d:subject><rdf:Bag><rdf:li/>'
        "<rdf:li>sea</rdf:li></rdf:Bag></d:subject></rdf:Description>",
    ],
)
def test_odd_forms_of_a_list(subject):
    packet = XmpPacket(
        f"<r:RDF xmlns:r='R'>{subject}</r:RDF>".replace("rdf:", "r:")
        .replace("'R'", "'http://www.w3.org/1999/02/22-rdf-syntax-ns#'")
        .replace("DC", DC)
        .encode()
    )
    assert packet.items(DC, "subject") == ["sea"]
    packet.set_items(DC, "dc", "subject", "Bag", ["sea", "tree"])
    assert packet.items(DC, "subject") == ["sea", "tree"]
    packet.set_items(DC, "dc", "subject", "Bag", [])
    assert packet.items(DC, "subject") == [] and b"sea" not in packet.data


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"<a/>", b"<!DOCTYPE a><a/>", b"<a" + b"<b>" * 500, b"\xef\xbb\xbf<a>"]
)
def test_what_is_no_packet(data):
    with pytest.raises(ValueError):
        XmpPacket(data)


def test_an_unknown_program():
    with pytest.raises(UsageError, match=r"--sidecars=digicam: unknown .did you mean digikam"):
        get_program("digicam")
