"""The section `config.task` of a captioning run."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.checks import check_choices, check_minimums
from jaxtag.config.schema import Config, TaskConfig, runtime
from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.errors import UsageError


@dataclasses.dataclass
class DecodingConfig:
    """How captions are generated (see `decoding.generation_config`)."""

    method: str = runtime("beam")  # greedy, beam, sample
    beam_size: int = runtime(4)
    length_penalty: float = runtime(1.0)
    early_stopping: bool | str = runtime(False)  # True, False, never: as in transformers
    num_return_sequences: int = runtime(1)  # captions of each image, the best first
    num_beam_groups: int = runtime(1)  # that search for captions unlike each other's
    diversity_penalty: float = runtime(0.0)  # nats, for a token that an earlier group takes
    min_new_tokens: int = runtime(0)  # before the end may come
    no_repeat_ngram_size: int = runtime(0)  # n-grams of tokens that come once only; 0: any
    repetition_penalty: float = runtime(1.0)  # above 1: what was said is less likely
    output_token_scores: bool = runtime(False)  # predictions have the score of each word
    temperature: float = runtime(1.0)
    top_k: int = runtime(0)  # 0: no limit
    top_p: float = runtime(1.0)
    prompt: str = runtime("")  # what every caption begins with: "a photo of"


@dataclasses.dataclass
class CaptionConfig(TaskConfig):
    """Image captioning: tokens, loss and decoding."""

    TASK: ClassVar[str] = "caption"
    REFERENCES: ClassVar[tuple[str, ...]] = ("tags_from",)

    loss: str = "softmax"  # cross-entropy of the next token
    label_smoothing: float = 0.0
    vocab_size: int = 8192  # upper limit; a small data set yields fewer tokens
    max_length: int = 32  # tokens including the start and end marks; longer captions are truncated
    lowercase: bool = True
    captions_per_image: int = 1  # per image and step; they share one pass of the encoder
    # Captions drawn of each image, whose CIDEr-D is raised instead of the references' likelihood
    # (see `tasks.caption.self_critical`); 0: cross-entropy.
    self_critical_samples: int = 0
    # REF of a tagger or classifier: its likeliest tags of an image come before each caption, which
    # is so told what it may name. They take up to half of `max_length`.
    tags_from: str | None = None
    num_tags: int = 3
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def check(self, config: Config) -> None:
        check_choices(config, {"task.decoding.method": ("greedy", "beam", "sample")})
        if self.tags_from and self.self_critical_samples:
            raise UsageError(
                "config.task.tags_from and self_critical_samples do not go together: leave one out"
            )
        minimums = (
            "task.max_length",
            "task.num_tags",
            "task.captions_per_image",
            "task.decoding.beam_size",
        )
        check_minimums(config, dict.fromkeys(minimums, 1))
        self.generation()
        if self.self_critical_samples not in (0, *range(2, 1000)):
            raise UsageError(
                f"config.task.self_critical_samples = {self.self_critical_samples}: a caption is "
                "compared with the image's others; draw at least 2, or none (0)"
            )
        if config.data.grayscale:
            raise UsageError(
                "config.data.grayscale = True: a captioner takes three channels; leave it False"
            )

    def generation(self, **overrides: Any) -> GenerationConfig:
        """How captions are generated.

        Args:
            overrides: in the place of those of `decoding`, or of GenerationConfig's defaults.

        Raises:
            UsageError: `decoding` makes no sense.
        """
        settings = dataclasses.asdict(self.decoding)
        del settings["prompt"]
        try:
            return GenerationConfig(**{"max_length": self.max_length, **settings, **overrides})
        except ValueError as error:
            raise UsageError(f"config.task.decoding: {error}") from error
