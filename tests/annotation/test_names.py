"""Tags under other names."""

import pytest

from jaxtag.annotation.names import read_names, read_synonyms, rename, unknown
from jaxtag.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "tag,name\ndog,Hund\nwater; sea,Meer\n",
        '\ufeffTag;Name\r\ndog;Hund\r\n"water; sea";Meer\r\n',
        "tag\tname\ndog\tHund\n\nwater; sea\tMeer\n",
    ],
)
def test_a_table_of_names(tmp_path, text):
    path = tmp_path / "names.csv"
    path.write_bytes(text.encode("utf-8"))
    names = read_names(path)
    assert names == {"dog": "Hund", "water; sea": "Meer"}
    tags = [{"tag": "dog", "score": 0.9}, {"tag": "cat", "score": 0.8}]
    assert rename({"file": "a", "tags": tags}, names)["tags"] == [
        {"tag": "Hund", "score": 0.9},
        {"tag": "cat", "score": 0.8},
    ]
    assert unknown(names, ["dog", "cat"]) == ["water; sea"]
    assert rename({"file": "a", "caption": "a dog"}, names) == {"file": "a", "caption": "a dog"}


def test_two_tags_of_one_name_become_one():
    tags = [{"tag": "sofa", "score": 0.9}, {"tag": "dog", "score": 0.8}]
    tags.append({"tag": "couch", "score": 0.7})
    names = {"sofa": "Sofa", "couch": "Sofa"}
    assert rename({"tags": tags}, names)["tags"] == [
        {"tag": "Sofa", "score": 0.9},
        {"tag": "dog", "score": 0.8},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dog,Hund\n", "its first line must be tag,name"),
        (b"", "its first line must be tag,name"),
        (b"tag,name\ndog,\n", "row 2 must be a tag and its name"),
        (b"tag,name\ndog,a,b\n", "row 2 must be a tag and its name"),
        (b"tag,name\ndog,Hund\ndog,Koeter\n", "row 3 gives 'dog' a second name"),
        (b"tag,name\ndog,H\xfcnd\n", "is no text in UTF-8"),
    ],
)
def test_a_wrong_table_is_told(tmp_path, content, message):
    (tmp_path / "names.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_names(tmp_path / "names.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_names(tmp_path / "absent.csv")


def test_a_tag_has_synonyms_of_several_languages(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("tag,synonym\ndog,Hund\nsea,Meer\ndog,chien\n", encoding="utf-8")
    assert read_synonyms(path) == {"dog": ("Hund", "chien"), "sea": ("Meer",)}
    path.write_text("tag,name\ndog,Hund\n")
    with pytest.raises(UserError, match=r"--synonyms=.*: its first line must be tag,synonym"):
        read_synonyms(path)
