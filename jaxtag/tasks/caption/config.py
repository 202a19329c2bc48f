"""The section `config.task` of a captioning run."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.schema import Config, TaskConfig, check_choices, check_minimums, runtime
from jaxtag.decoding.generation_config import GenerationConfig
from jaxtag.errors import UsageError


@dataclasses.dataclass
class DecodingConfig:
    """How captions are generated."""

    method: str = runtime("beam")  # greedy, beam, sample
    beam_size: int = runtime(4)
    length_penalty: float = runtime(1.0)
    early_stopping: bool | str = runtime(False)  # True, False, never: as in transformers
    temperature: float = runtime(1.0)
    top_k: int = runtime(0)  # 0: no limit
    top_p: float = runtime(1.0)
    prompt: str = runtime("")  # what every caption begins with: "a photo of"


@dataclasses.dataclass
class CaptionConfig(TaskConfig):
    """Image captioning: tokens, loss and decoding."""

    TASK: ClassVar[str] = "caption"

    loss: str = "softmax"  # cross-entropy of the next token
    label_smoothing: float = 0.0
    vocab_size: int = 8192  # upper limit; a small data set yields fewer tokens
    max_length: int = 32  # tokens including the start and end marks; longer captions are truncated
    lowercase: bool = True
    captions_per_image: int = 1  # per image and step; they share one pass of the encoder
    # Captions drawn of each image, whose CIDEr-D is raised instead of the references' likelihood
    # (see `tasks.caption.self_critical`); 0: cross-entropy.
    self_critical_samples: int = 0
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def check(self, config: Config) -> None:
        check_choices(config, {"task.decoding.method": ("greedy", "beam", "sample")})
        minimums = ("task.max_length", "task.captions_per_image", "task.decoding.beam_size")
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
