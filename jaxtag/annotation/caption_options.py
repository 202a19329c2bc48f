"""What `jaxtag.annotate` asks of captioners: a beginning, several captions, scores of words."""

import dataclasses

from absl import flags

from jaxtag.errors import UsageError
from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.caption.task import CaptionTask

_DIVERSITY_PENALTY = 0.5  # between the captions of an image (Vijayakumar et al. 2018, section 5.2)


@dataclasses.dataclass(frozen=True)
class CaptionOptions:
    """How captions differ from those of the model's own settings.

    Attributes:
        prompt: what they begin with; None as the model has it.
        captions_per_image: captions of each image; None as the model has it.
        tags_from: REF of a model whose tags come before the caption; None as the model has it.
        word_scores: whether each word has its probability.
    """

    prompt: str | None = None
    captions_per_image: int | None = None
    tags_from: str | None = None
    word_scores: bool = False

    def apply(self, model: Predictor) -> None:
        """Changes the settings of a captioner.

        Raises:
            UsageError: the model is none, or cannot do so.
        """
        if self == CaptionOptions():
            return
        if not isinstance(model.task, CaptionTask):
            raise UsageError(
                "--prompt, --captions_per_image, --tags_from and --word_scores are for models that "
                f"write captions: {model.reference} does not"
            )
        settings = model.task.settings.decoding
        if self.prompt is not None:
            model.task.encode_prompts([self.prompt])  # refuses what is too long
            settings.prompt = self.prompt
        if self.tags_from is not None:
            model.task.settings.tags_from = self.tags_from
        if self.captions_per_image is not None:
            count = settings.num_return_sequences = self.captions_per_image
            if count > 1 and settings.method != "sample" and settings.num_beam_groups < count:
                settings.method, settings.num_beam_groups = "beam", count
                # Two beams each at least: where one finds what is there already, it has another.
                settings.beam_size = max(-(-settings.beam_size // count), 2) * count
                settings.diversity_penalty = settings.diversity_penalty or _DIVERSITY_PENALTY
        settings.output_token_scores = settings.output_token_scores or self.word_scores
        model.task.settings.generation()


def define_flags() -> None:
    flags.DEFINE_string("prompt", None, 'What captions begin with: "a photo of".')
    flags.DEFINE_integer(
        "captions_per_image",
        None,
        "Captions of each image, unlike each other, the likeliest first.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "tags_from",
        None,
        "REF of a tagger or classifier: a captioner that was trained with config.task.tags_from is "
        "told its tags of each image.",
    )
    flags.DEFINE_bool("word_scores", False, "The probability of each word of a caption too.")


def from_flags() -> CaptionOptions:
    values = flags.FLAGS
    return CaptionOptions(
        values.prompt, values.captions_per_image, values.tags_from, values.word_scores
    )
