"""Images in a folder for each class: see `jaxtag.datasets.class_folders`."""

from jaxtag.datasets.base import Listing
from jaxtag.datasets.class_folders import list_class_folders
from jaxtag.datasets.forms.base import Confidence, Evidence, LayoutForm
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError


class ClassFolders(LayoutForm):
    """`[SPLIT/]CLASS/…/FILE`."""

    name = "folders"
    title = "a folder for each class"

    def detect(self, source: SourceFiles) -> Evidence | None:
        listing = list_class_folders(source)
        return Evidence(Confidence.LIKELY, "the names of the folders") if listing else None

    def list_images(self, source: SourceFiles, kind: str | None) -> Listing:
        del kind  # classes only
        listing = list_class_folders(source)
        if listing is None:
            raise UserError(f"{source.path}: there are not two folders of images, one a class")
        return listing
