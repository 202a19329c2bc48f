"""The lists that come with ImageNet-1k: its classes, and what the validation pictures show."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.io

from jaxtag.datasets.archives import ReadError, Store
from jaxtag.datasets.coco_json import read_text
from jaxtag.errors import UserError

_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_SOLUTION = "LOC_val_solution.csv"
_SYNSETS = ("LOC_synset_mapping.txt", "synset_words.txt")
_LEAVES = 1000  # ids up to here are classes, those above are groups of them
_MAX_META_BYTES = 64 << 20
_SYNSET = re.compile(r"^n\d{8}$")


@dataclass(frozen=True)
class Devkit:
    """`synsets` in the order of their names; `truth`: stem of a file name -> synset."""

    synsets: list[str]
    truth: Mapping[str, str]


def read_devkit(store: Store) -> Devkit | None:
    """The development kit; None where it is not there.

    Raises:
        UserError: it is there in part, or damaged.
    """
    truth, meta = store.find(_TRUTH), store.find(_META)
    if not truth:
        return None
    if not meta:
        raise UserError(f"{store.path} has {_TRUTH}, but no {_META}, which comes with it")
    synsets = _synsets_by_number(store, meta[0])
    shown = {}
    for number, line in enumerate(read_text(store, truth[0]).split(), start=1):
        synset = synsets.get(int(line)) if line.isdecimal() else None
        if synset is None:
            raise UserError(f"{store.where(truth[0])}, line {number}: {line!r} is no class")
        shown[f"ILSVRC2012_val_{number:08d}"] = synset
    leaves = sorted(synset for number, synset in synsets.items() if number <= _LEAVES)
    return Devkit(leaves, shown)


def read_solution(store: Store) -> dict[str, str]:
    """Kaggle's ground truth, stem of a file name -> synset; empty where it is not there.

    Raises:
        UserError: it is malformed.
    """
    found = store.find(_SOLUTION)
    if not found:
        return {}
    rows = csv.DictReader(io.StringIO(read_text(store, found[0])))
    shown = {}
    for row in rows:
        stem, synset = row.get("ImageId"), (row.get("PredictionString") or "").partition(" ")[0]
        if not stem or not _SYNSET.match(synset):
            raise UserError(
                f"{store.where(found[0])}, line {rows.line_num}: not a picture's ImageId and, "
                "in PredictionString, a class"
            )
        shown[stem] = synset
    return shown


def read_synsets(store: Store) -> list[str]:
    """The classes of LOC_synset_mapping.txt or synset_words.txt, sorted; empty without either.

    Raises:
        UserError: a line does not start with a synset.
    """
    found = [path for name in _SYNSETS for path in store.find(name)]
    if not found:
        return []
    synsets = []
    for number, line in enumerate(read_text(store, found[0]).splitlines(), start=1):
        synset = line.partition(" ")[0]
        if line and not _SYNSET.match(synset):
            raise UserError(f"{store.where(found[0])}, line {number}: {synset!r} is no synset")
        synsets += [synset] if line else []
    return sorted(synsets)


def _synsets_by_number(store: Store, name: str) -> dict[int, str]:
    """ILSVRC2012_ID -> synset, of meta.mat."""
    where = store.where(name)
    try:
        data = store.read(name, _MAX_META_BYTES)
        table = scipy.io.loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        numbers, synsets = np.atleast_1d(table["ILSVRC2012_ID"]), np.atleast_1d(table["WNID"])
        found = {int(n): str(synset) for n, synset in zip(numbers, synsets, strict=True)}
    except ReadError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # scipy raises many kinds for damaged data
        raise UserError(f"{where} is no list of synsets ({error}): get it again") from error
    return found
