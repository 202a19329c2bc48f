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
        num_beam_groups: groups of `beam_size / num_beam_groups` hypotheses, each of which searches
            for captions unlike those of the groups before it (beam; Vijayakumar et al. 2018,
            arXiv:1610.02424).
        diversity_penalty: what a token loses for each hypothesis of an earlier group that takes it
            in the same step, in nats.
        num_return_sequences: captions of each image (beam, sample); with groups one of each.
        min_new_tokens: tokens after the prompt before `eos_id` may come.
        no_repeat_ngram_size: n-grams of tokens that come once only, the prompt counted; 0: any.
        repetition_penalty: above 1, tokens that a caption has already are less likely (Keskar et
            al. 2019, arXiv:1909.05858, section 4.1).
        output_token_scores: whether the log-probability of each token is returned too.
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
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    num_return_sequences: int = 1
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    output_token_scores: bool = False
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
            f"num_beam_groups must divide beam_size, {self.beam_size}": self.num_beam_groups >= 1
            and self.beam_size % self.num_beam_groups == 0,
            "diversity_penalty must be at least 0": self.diversity_penalty >= 0,
            f"num_return_sequences must lie in [1, {self._most_sequences}]": 1
            <= self.num_return_sequences
            <= self._most_sequences,
            "min_new_tokens must be at least 0": self.min_new_tokens >= 0,
            "no_repeat_ngram_size must be at least 0": self.no_repeat_ngram_size >= 0,
            "repetition_penalty must be above 0": self.repetition_penalty > 0,
            "temperature must be above 0": self.temperature > 0,
            "top_k must be at least 0": self.top_k >= 0,
            "top_p must lie in (0, 1]": 0 < self.top_p <= 1,
        }
        for message, valid in checks.items():
            if not valid:
                raise ValueError(f"{message}; got {getattr(self, message.split()[0])!r}")

    @property
    def _most_sequences(self) -> int:
        """The captions of an image that a search has."""
        groups = max(self.num_beam_groups, 1)
        limits = {"greedy": 1, "beam": self.beam_size if groups == 1 else groups}
        return limits.get(self.method, self.max_length**2)

    @property
    def num_hypotheses(self) -> int:
        """The captions of an image that are written at a time."""
        return self.beam_size if self.method == "beam" else self.num_return_sequences

    @property
    def has_constraints(self) -> bool:
        """Whether what a caption has already forbids some tokens, or makes them less likely."""
        return (
            self.min_new_tokens > 0
            or self.no_repeat_ngram_size > 0
            or self.repetition_penalty != 1.0
        )
