"""Predictions as typed results, which a notebook shows with their images."""

import base64
import dataclasses
import html
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_THUMBNAIL = 240  # pixels, of the longer side, in a notebook


class Tag(NamedTuple):
    """A tag or class, and its score from 0 to 1."""

    tag: str
    score: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for an image; what the model does not have is None.

    Attributes:
        tags: the likeliest first.
        caption: text.
        score: of the caption: its log-probability, with beam search divided by the length penalty.
        embedding: float32 [D].
        error: why the image could not be decoded.
        row: all of it as JSON values, with what a task of one's own adds.
        image: the input: a path, encoded bytes or uint8 [H, W, 3].
    """

    tags: list[Tag] | None
    caption: str | None
    score: float | None
    embedding: np.ndarray | None
    error: str | None
    row: dict[str, Any]
    image: Any = dataclasses.field(repr=False)

    @classmethod
    def from_row(cls, row: dict[str, Any], image: Any) -> "Prediction":
        """From a row as `jaxtag.annotate` writes it."""
        tags, embedding = row.get("tags"), row.get("embedding")
        return cls(
            tags=None if tags is None else [Tag(t["tag"], t["score"]) for t in tags],
            caption=row.get("caption"),
            score=row.get("score"),
            embedding=None if embedding is None else np.asarray(embedding, np.float32),
            error=row.get("error"),
            row=row,
            image=image,
        )

    def __str__(self) -> str:
        if self.error is not None:
            return f"error: {self.error}"
        if self.caption is not None:
            return self.caption
        if self.tags is not None:
            return ", ".join(f"{tag} ({score:.0%})" for tag, score in self.tags)
        return str({name: value for name, value in self.row.items() if name != "file"})

    def _repr_html_(self) -> str:
        text = html.escape(str(self))
        source = self._thumbnail()
        picture = f'<img src="{source}" alt=""><br>' if source else ""
        return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"

    def _thumbnail(self) -> str | None:
        """A data URL; None where the image cannot be shown."""
        try:
            if isinstance(self.image, np.ndarray):
                image = Image.fromarray(self.image)
            else:
                data = self.image
                image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
            image = image.convert("RGB")
        except (OSError, ValueError):
            return None
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
