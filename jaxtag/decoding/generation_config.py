"""How captions are generated."""

from dataclasses import dataclass

METHODS = ("greedy", "beam", "sample")


@dataclass(frozen=True)
class GenerationConfig:
    """How captions are generated; each distinct configuration compiles once per batch shape.

    Attributes:
        method: "greedy", "beam" or "sample".
        max_length: maximum number of tokens, `bos_id` and `eos_id` included.
        beam_size: hypotheses per image (beam).
        length_penalty: a finished hypothesis scores log-probability / (tokens after the first) **
            length_penalty (beam).
        early_stopping: when the search of an image ends once `beam_size` hypotheses have finished,
            with the meaning it has in transformers. True: at once. False: when the best running
            hypothesis, scored at its current length, is worse than the worst finished one. "never":
            the same, scored at the length that is best for it, so that nothing better is missed.
        temperature: divides the logits (sample).
        top_k: sample from the `top_k` most likely tokens; 0: from all.
        top_p: of those, from the fewest that hold `top_p` of the probability.
        bos_id: first token of every caption.
        eos_id: token that ends a caption.
        pad_id: token after the end.
    """

    method: str = "greedy"
    max_length: int = 32
    beam_size: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = 0

    def __post_init__(self) -> None:
        checks = {
            f"method must be one of {', '.join(METHODS)}": self.method in METHODS,
            "max_length must be at least 2": self.max_length >= 2,
            "beam_size must be at least 1": self.beam_size >= 1,
            'early_stopping must be True, False or "never"': self.early_stopping
            in (True, False, "never"),
            "temperature must be above 0": self.temperature > 0,
            "top_k must be at least 0": self.top_k >= 0,
            "top_p must lie in (0, 1]": 0 < self.top_p <= 1,
        }
        for message, valid in checks.items():
            if not valid:
                raise ValueError(f"{message}; got {self}")
