"""One's own captions in the JSON of Karpathy's splits: dataset.json of NeuralTalk2 and others.

`{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`; Karpathy and Fei-Fei, Deep
Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015, section 4.
"""

from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, Row, Table, clean_file
from jaxtag.datasets.forms.base import JsonForm, dict_entries
from jaxtag.datasets.odd_entries import OddEntries


def _matches(content: Any) -> bool:
    images = dict_entries(content.get("images")) if isinstance(content, dict) else []
    return any("sentences" in image for image in images)


def _read(content: Any, where: str, kind: str | None) -> Table:
    del kind  # captions only
    table, odd = Table(), OddEntries()
    for number, image in enumerate(content["images"]):
        location = f"{where}: images[{number}]"
        image = image if isinstance(image, dict) else {}
        file, sentences = image.get("filename"), image.get("sentences")
        if not isinstance(file, str) or not file.strip() or not isinstance(sentences, list):
            odd.add(location, 'it needs a "filename" and a list "sentences"')
            continue
        folder, split = image.get("filepath"), image.get("split")
        if isinstance(folder, str) and folder:  # COCO's: "val2014"
            file = f"{folder}/{file}"
        texts = [text for sentence in sentences if (text := _text(sentence)) is not None]
        if len(texts) < len(sentences):
            table.problems.append((location, 'a sentence without "raw" is left out'))
        split = split if isinstance(split, str) else None
        table.rows.append(Row(location, clean_file(file), CAPTIONS, texts, split))
    odd.report(len(table.rows), table.problems)
    return table


def _text(sentence: Any) -> str | None:
    raw = sentence.get("raw") if isinstance(sentence, dict) else sentence
    return raw if isinstance(raw, str) else None


FORM = JsonForm("karpathy", "captions in Karpathy's JSON", _matches, _read)
