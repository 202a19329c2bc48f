"""The names of all forms, as `--as` takes them."""

from dataclasses import dataclass

from jaxtag.datasets.annotations import CAPTIONS, TAGS
from jaxtag.datasets.forms import cvat
from jaxtag.datasets.forms.base import FileForm, LayoutForm
from jaxtag.datasets.forms.class_folders import ClassFolders
from jaxtag.datasets.forms.json_forms import JSON_FORMS
from jaxtag.datasets.forms.keywords import Keywords
from jaxtag.datasets.forms.kohya import Kohya
from jaxtag.datasets.forms.labelme import Labelme
from jaxtag.datasets.forms.open_images import OpenImages
from jaxtag.datasets.forms.parquet import Parquet, SavedDataset
from jaxtag.datasets.forms.voc_xml import VocXml
from jaxtag.datasets.forms.webdataset import WebDataset
from jaxtag.datasets.forms.yolo import Yolo
from jaxtag.errors import UsageError, did_you_mean

# Told apart from other folders by files of their own.
LAYOUT_FORMS: tuple[LayoutForm, ...] = (
    Parquet(),
    SavedDataset(),
    WebDataset(),
    Yolo(),
    VocXml(),
    Labelme(),
    OpenImages(),
    Kohya(),
)
# Tried where nothing else is found.
FALLBACK_FORMS: tuple[LayoutForm, ...] = (Keywords(),)
CLASS_FOLDERS = ClassFolders()
# Name -> title of the forms of single files.
_FILE_FORMS: tuple[FileForm, ...] = (*JSON_FORMS[::-1], cvat.FORM)
TABLE_FORMS = {"table": "a table", **{form.name: form.title for form in _FILE_FORMS}}
_LAYOUTS = {form.name: form for form in (*LAYOUT_FORMS, CLASS_FOLDERS, *FALLBACK_FORMS)}
NAMES = (*TABLE_FORMS, *_LAYOUTS)


@dataclass(frozen=True)
class FormChoice:
    """The form that a user said a source is in.

    Attributes:
        name: One of NAMES, or None for any that fits.
        kind: CAPTIONS or TAGS: which of them to read, or None.
    """

    name: str | None = None
    kind: str | None = None

    @classmethod
    def parse(cls, text: str) -> "FormChoice":
        """The choice of `--as=FORM`, `--as=FORM:captions` or `--as=FORM:tags`.

        Raises:
            UsageError: There is no such form.
        """
        name, _, kind = text.partition(":")
        if name not in NAMES:
            raise UsageError(f"--as={text}: no form is called {name!r}{did_you_mean(name, NAMES)}")
        if kind not in ("", CAPTIONS, TAGS):
            raise UsageError(f"--as={text}: after the colon stands {CAPTIONS} or {TAGS}")
        return cls(name, kind or None)


def layout_form(name: str | None) -> LayoutForm | None:
    """The form of a folder of the name; None where it is one of a file."""
    return _LAYOUTS.get(name or "")
