"""The counts of a prepared data set: printed, and kept beside it as summary.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jaxtag.datasets.base import Listing
from jaxtag.datasets.verify import PrepareReport

SUMMARY = "summary.json"
_SHOWN = 5  # classes or tags at either end


@dataclass
class Summary:
    """What a prepared data set holds.

    Attributes:
      dataset, version: its name and version.
      variant: which form of the data set it was made of, in words.
      splits: split -> {"pictures"}, with captions {"captions"} too, with labels {"classes"} or tags
        {"tags"}: how many of them occur.
      damaged: pictures that could not be read or decoded.
      left_out: entries of ledger.jsonl (damaged pictures, and missing or malformed things).
      caption_words: {"mean", "median", "p99", "max"} words of a caption; empty without captions.
      balance: name of each class or tag -> pictures of the first split that have it, most first.
      warnings: what differs from the data set as it was published.
      folder: where it lies; not stored, so that it can be moved.
      already: whether it was there before the call.
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
    folder: Path | None = None
    already: bool = False

    @classmethod
    def of(
        cls,
        dataset: str,
        version: str,
        listing: Listing,
        account: PrepareReport,
        published: Mapping[str, int],
    ) -> "Summary":
        """Of what was just written; `published` has the pictures that a split should have."""
        return cls(
            dataset=dataset,
            version=version,
            variant=listing.variant,
            splits={split: _counts(split, account) for split in account.pictures},
            damaged=account.damaged,
            left_out=len(account.ledger),
            caption_words=_words(account.lengths),
            balance=_balance(listing, account),
            warnings=listing.warnings
            + [
                f"{split} has {account.pictures[split]:,} pictures; {count:,} were published"
                for split, count in published.items()
                if account.pictures[split] != count
            ],
        )

    @classmethod
    def load(cls, folder: Path) -> "Summary":
        """Of a prepared data set; ValueError, TypeError or OSError where it has none."""
        stored = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return cls(**stored, folder=folder, already=True)

    def to_json(self) -> str:
        stored = asdict(self)
        del stored["folder"], stored["already"]
        return json.dumps(stored, indent=2) + "\n"

    def __str__(self) -> str:
        lines = [f"{self.dataset} {self.version} ({self.variant})"]
        lines += [
            f"  {split:<11} " + " ".join(f"{count:>9,} {what}" for what, count in counts.items())
            for split, counts in self.splits.items()
        ]
        if self.caption_words:
            words = self.caption_words
            lines.append(
                f"  words of a caption: mean {words['mean']:.1f}, median {words['median']:.0f}, "
                f"99 of 100 at most {words['p99']:.0f}, longest {words['max']:.0f}"
            )
        lines += self._balance_lines()
        if self.left_out:
            lines.append(
                f"  left out: {self.left_out:,}, of these {self.damaged:,} unusable pictures; "
                "each with its reason in ledger.jsonl"
            )
        else:
            lines.append("  left out: nothing")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _balance_lines(self) -> list[str]:
        """The classes or tags with the most and the fewest pictures."""
        if not self.balance:
            return []
        split, counts = next(iter(self.splits.items()))
        entries = [f"{name} {count:,}" for name, count in self.balance.items()]
        lines = [f"  pictures in {split}: {', '.join(entries)}"]
        if len(entries) > 2 * _SHOWN:
            lines = [
                f"  most pictures in {split}: {', '.join(entries[:_SHOWN])}",
                f"  fewest: {', '.join(entries[-_SHOWN:])}",
            ]
        if "tags" in counts:
            mean = sum(self.balance.values()) / counts["pictures"]
            lines.append(f"  tags of a picture: mean {mean:.2f}")
        return lines


def _counts(split: str, account: PrepareReport) -> dict[str, int]:
    counts = {"pictures": account.pictures[split]}
    if split in account.captions:
        counts["captions"] = account.captions[split]
    if split in account.labels:
        counts["classes"] = len(account.labels[split])
    if split in account.tags:
        counts["tags"] = len(account.tags[split])
    return counts


def _balance(listing: Listing, account: PrepareReport) -> dict[str, int]:
    """Pictures of the first split by class or tag, those that it lacks too, most first."""
    split = next(iter(account.pictures))
    if "label" in listing.features:
        names, counts = listing.features["label"].names, account.labels[split]
    elif "tags" in listing.features:
        names, counts = listing.features["tags"].feature.names, account.tags[split]
    else:
        return {}
    order = sorted(range(len(names)), key=lambda number: (-counts[number], names[number]))
    return {names[number]: counts[number] for number in order}


def _words(lengths: dict[int, int]) -> dict[str, float]:
    total = sum(lengths.values())
    if not total:
        return {}

    def quantile(share: float) -> int:
        seen = 0
        for length in sorted(lengths):
            seen += lengths[length]
            if seen >= share * total:
                return length
        raise AssertionError("a share is at most 1")

    mean = sum(length * count for length, count in lengths.items()) / total
    return {
        "mean": round(mean, 2),
        "median": quantile(0.5),
        "p99": quantile(0.99),
        "max": max(lengths),
    }
