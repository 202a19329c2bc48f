"""The model card (README.md) of a model on the Hugging Face Hub."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_TASK_TAGS = {
    "classify": "image-classification",
    "tag": "image-classification",
    "embed": "image-feature-extraction",
    "caption": "image-to-text",
}
_MAX_LABELS = 50  # that a card lists
CONFIG_FILE = "jaxtag_config.json"
_TRAINING = (
    f"`{CONFIG_FILE}` has every setting. The same training, on the same data:",
    *("", "```python", "import jaxtag", "from jaxtag.config import serialization", ""),
    f'config = serialization.from_json(open("{CONFIG_FILE}").read())',
    *('jaxtag.fit(config, workdir="runs/again")', "```"),
)


class ModelCard(NamedTuple):
    """What a card says.

    Attributes:
        title: of the page.
        task: registered name of the task.
        library: whose names the weights have: "timm" or "transformers".
        architecture: registered name of the backbone.
        image_size: pixels.
        pretrained: REF of the weights that training began with.
        dataset: that the model was trained on.
        split: that it was evaluated on.
        labels: names of the classes or tags.
        metrics: of the evaluation; empty where there was none.
    """

    title: str
    task: str
    library: str
    architecture: str
    image_size: int
    pretrained: str | None
    dataset: str
    split: str
    labels: Sequence[str]
    metrics: Mapping[str, float]

    def to_markdown(self) -> str:
        """The text of README.md, with the metadata that the Hub reads."""
        metadata = {"library_name": self.library, "pipeline_tag": _TASK_TAGS.get(self.task)}
        lines = ["---", *(f"{key}: {json.dumps(v)}" for key, v in metadata.items() if v)]
        lines += ["tags:", "- jaxtag", "---", "", f"# {self.title}", "", self._introduction(), ""]
        lines += ["## Evaluation", "", *self._evaluation(), "", "## Limits", "", self._limits(), ""]
        lines += ["## Labels", "", self._labels(), ""] if self.labels else []
        lines += ["## How it was made", "", *_TRAINING]
        return "\n".join(lines) + "\n"

    def _introduction(self) -> str:
        start = f"the weights {self.pretrained}" if self.pretrained else "random weights"
        return (
            f"`{self.architecture}` for images of {self.image_size} pixels, trained with jaxtag on "
            f"the data set {self.dataset}, from {start}. The weights have the names of "
            f"{self.library}."
        )

    def _evaluation(self) -> list[str]:
        if not self.metrics:
            return ["Not evaluated."]
        rows = [f"| {name} | {value:.4g} |" for name, value in self.metrics.items()]
        return [
            f"On the split {self.split} of {self.dataset}:",
            "",
            "| metric | value |",
            "|---|---|",
            *rows,
        ]

    def _limits(self) -> str:
        limits = (
            f"It knows what {self.dataset} shows, and was not tested on other images. Scores say "
            "how sure the model is, and not whether it is right."
        )
        if self.labels:
            limits += f" It has {len(self.labels)} labels and gives no others."
        return limits

    def _labels(self) -> str:
        shown = ", ".join(self.labels[:_MAX_LABELS])
        rest = len(self.labels) - _MAX_LABELS
        return shown + (f" and {rest} more (config.json)" if rest > 0 else "")
