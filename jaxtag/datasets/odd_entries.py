"""Entries of an annotation file that cannot be used: each costs a ledger line, up to a share."""

from dataclasses import dataclass, field

from jaxtag.errors import UserError

# A file of which more is odd is taken for one in another form than the reader thinks.
MAX_ODD_SHARE = 0.25

Problems = list[tuple[str, str]]  # (file or line, reason)


class NotATableError(UserError):
    """A file that holds no annotations at all, such as a list of class names."""


@dataclass
class OddEntries:
    """Collects the entries of one file that cannot be used.

    Attributes:
        odd: (location, reason) of each.
    """

    odd: Problems = field(default_factory=list)

    def add(self, location: str, reason: str) -> None:
        """Adds an entry; `reason` goes on where "LOCATION: " ends."""
        self.odd.append((location, reason))

    def report(self, num_sound: int, problems: Problems) -> None:
        """Moves the entries to `problems`, unless they are too many beside `num_sound` others.

        Raises:
            UserError: More than MAX_ODD_SHARE are odd; names the first. NotATableError: All are.
        """
        total = num_sound + len(self.odd)
        if self.odd and len(self.odd) > MAX_ODD_SHARE * total:
            location, reason = self.odd[0]
            others = len(self.odd) - 1
            more = f" (and {others:,} others of {total:,} cannot be used either)" if others else ""
            kind = NotATableError if len(self.odd) >= total else UserError
            raise kind(f"{location}{_after_location(reason)}{more}")
        problems += self.odd
        self.odd = []


def _after_location(reason: str) -> str:
    """`annotations[0] has no id` instead of `annotations[0]: it has no id`."""
    return f" {reason[3:]}" if reason.startswith("it ") else f": {reason}"
