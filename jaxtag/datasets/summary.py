"""The counts of a prepared data set: printed, and stored beside it as summary.json."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxtag.datasets.base import Listing
from jaxtag.datasets.verify import PrepareReport
from jaxtag.errors import printable
from jaxtag.storage import json_files

SUMMARY = "summary.json"
_NOUNS = {"pictures": "images"}  # how counts are printed; others by their name
_SHOWN = 5  # classes or tags at either end


@dataclass
class Summary:
    """What a prepared data set holds.

    Attributes:
        dataset: Its name.
        version: Its version.
        variant: The form of the data set that it was made from, for people.
        splits: Split -> {"pictures"}, with captions {"captions"} too, with labels {"classes"} or
            tags {"tags"}: how many of them occur.
        damaged: Number of images that could not be read or decoded.
        left_out: Number of entries of ledger.jsonl (damaged images, and missing or malformed
            things).
        caption_words: {"mean", "median", "p99", "max"} words of a caption; empty without captions.
        balance: Name of each class or tag -> images of the first split that have it, most first.
        warnings: What differs from the data set as it was published.
        contents: Split -> a digest of its images and their annotations, by which runs know their
            data; empty where an older version prepared it.
        folder: Where it lies; not stored, so that it can be moved.
        already: Whether it was there before the call.
    """

    dataset: str
    version: str
    variant: str
    splits: dict[str, dict[str, int]]
    damaged: int
    left_out: int
    caption_words: dict[str, float]
    balance: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)
    already: bool = False

    @classmethod
    def from_report(
        cls,
        dataset: str,
        version: str,
        listing: Listing,
        report: PrepareReport,
        published: Mapping[str, int],
    ) -> "Summary":
        """Sums up what was just written; `published` has the images that a split should have."""
        return cls(
            dataset=dataset,
            version=version,
            variant=listing.variant,
            splits={split: _counts(split, report) for split in report.images},
            damaged=report.damaged,
            left_out=sum(not entry.get("used") for entry in report.ledger),
            caption_words=_quantiles(report.lengths),
            balance=_balance(listing, report),
            contents=dict(report.contents),
            warnings=listing.warnings
            + [
                f"{split} has {report.images[split]:,} images; {count:,} were published"
                for split, count in published.items()
                if report.images[split] != count
            ],
        )

    @classmethod
    def load(cls, folder: Path) -> "Summary":
        """Reads that of a prepared data set.

        Raises:
            UserError, TypeError: It has none, or a damaged one.
        """
        summary = cls(**json_files.read(folder / SUMMARY), folder=folder, already=True)
        summary._check()
        return summary

    def _check(self) -> None:
        """Raises TypeError where a field is not of its type."""

        def require(is_right: bool, name: str) -> None:
            if not is_right:
                raise TypeError(f"{name} is not as it should be")

        def counts(value: Any, kinds: Any = int) -> bool:
            return isinstance(value, dict) and all(isinstance(n, kinds) for n in value.values())

        for name in ("dataset", "version", "variant"):
            require(isinstance(getattr(self, name), str), name)
        for name in ("damaged", "left_out"):
            require(isinstance(getattr(self, name), int), name)
        require(isinstance(self.splits, dict) and bool(self.splits), "splits")
        for split in self.splits.values():
            require(counts(split) and split.get("pictures", 0) > 0, "splits")
        require(counts(self.balance), "balance")
        require(counts(self.contents, str), "contents")
        require(counts(self.caption_words, (int, float)), "caption_words")
        names = set(self.caption_words)
        require(not names or names == {"mean", "median", "p99", "max"}, "caption_words")
        is_list = isinstance(self.warnings, list)
        require(is_list and all(isinstance(line, str) for line in self.warnings), "warnings")

    def to_json(self) -> str:
        """The text of summary.json."""
        stored = asdict(self)
        del stored["folder"], stored["already"]
        return json.dumps(stored, indent=2) + "\n"

    def __str__(self) -> str:
        lines = [f"{self.dataset} {self.version} ({self.variant})"]
        for split, counts in self.splits.items():
            columns = [f"{count:>9,} {_NOUNS.get(name, name)}" for name, count in counts.items()]
            lines.append(f"  {split:<11} " + " ".join(columns))
        if self.caption_words:
            words = self.caption_words
            lines.append(
                f"  words of a caption: mean {words['mean']:.1f}, median {words['median']:.0f}, "
                f"99 of 100 at most {words['p99']:.0f}, longest {words['max']:.0f}"
            )
        lines += self._balance_lines()
        if self.left_out:
            lines.append(
                f"  left out: {self.left_out:,}, of these {self.damaged:,} unusable images; "
                "each with its reason in ledger.jsonl"
            )
        else:
            lines.append("  left out: nothing")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(map(printable, lines))

    def _balance_lines(self) -> list[str]:
        """The classes or tags with the most and the fewest images."""
        if not self.balance:
            return []
        split, counts = next(iter(self.splits.items()))
        entries = [f"{name} {count:,}" for name, count in self.balance.items()]
        lines = [f"  images in {split}: {', '.join(entries)}"]
        if len(entries) > 2 * _SHOWN:
            lines = [
                f"  most images in {split}: {', '.join(entries[:_SHOWN])}",
                f"  fewest: {', '.join(entries[-_SHOWN:])}",
            ]
        if "tags" in counts:
            mean = sum(self.balance.values()) / counts["pictures"]
            lines.append(f"  tags of an image: mean {mean:.2f}")
        return lines


def _counts(split: str, report: PrepareReport) -> dict[str, int]:
    counts = {"pictures": report.images[split]}
    if split in report.captions:
        counts["captions"] = report.captions[split]
    if split in report.labels:
        counts["classes"] = len(report.labels[split])
    if split in report.tags:
        counts["tags"] = len(report.tags[split])
    return counts


def _balance(listing: Listing, report: PrepareReport) -> dict[str, int]:
    """Images of the first split by class or tag, those that it lacks too, most first."""
    split = next(iter(report.images))
    if "label" in listing.features:
        names, counts = listing.features["label"].names, report.labels[split]
    elif "tags" in listing.features:
        names, counts = listing.features["tags"].feature.names, report.tags[split]
    else:
        return {}
    order = sorted(range(len(names)), key=lambda number: (-counts[number], names[number]))
    return {names[number]: counts[number] for number in order}


def _quantiles(lengths: Counter[int]) -> dict[str, float]:
    total = sum(lengths.values())
    if not total:
        return {}

    def quantile(fraction: float) -> int:
        seen = 0
        for length in sorted(lengths):
            seen += lengths[length]
            if seen >= fraction * total:
                return length
        raise AssertionError("a fraction is at most 1")

    mean = sum(length * count for length, count in lengths.items()) / total
    return {
        "mean": round(mean, 2),
        "median": quantile(0.5),
        "p99": quantile(0.99),
        "max": max(lengths),
    }
