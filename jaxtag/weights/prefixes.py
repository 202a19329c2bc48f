"""Prefixes that training programs put before every name: `module.`, `_orig_mod.`, `model.` …"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from jaxtag.errors import UserError
from jaxtag.weights.tensors import Tensors

_MAX_NAMES = 3  # that an error lists
_MIN_SHARE = 0.3  # of all names that a prefix must explain; an average beside leaves it a half
# A classifier beside the backbone, as mmpretrain keeps it.
_HEAD = re.compile(r"(^|\.)(\w*head|fc|classifier)\.")


def remove_prefix(tensors: Tensors, expected: Iterable[str], ignored: re.Pattern[str]) -> Tensors:
    """`tensors` under the names that the tables have: without a prefix that all names share.

    DistributedDataParallel writes `module.`, torch.compile `_orig_mod.`, Lightning `model.`, a
    checkpoint that was flattened `state_dict.`, mmpretrain `backbone.` (and a classifier beside).

    Args:
        expected: the names of all tables.
        ignored: matches names of tensors without effect.

    Raises:
        UserError: only a part of the names has the prefix, or the same weights occur under several.
    """
    counts = _count_prefixes(tensors, set(expected))
    if not counts:
        return tensors
    most = max(counts.values())
    prefix = min((p for p, count in counts.items() if count == most), key=len)
    if not prefix or most < _MIN_SHARE * len(tensors):
        return tensors
    _check_only_copy(tensors, prefix, counts)
    rest = [
        name
        for name in tensors
        if not (name.startswith(prefix) or ignored.search(name) or _HEAD.search(name))
    ]
    if rest:
        others = ", ".join(sorted(rest)[:_MAX_NAMES])
        raise UserError(
            f"{tensors.path}: the weights' names begin with the prefix {prefix}, and "
            f"{len(rest)} other names do not ({others}): keep the former alone in the file"
        )
    return tensors.without_prefix(prefix)


def _count_prefixes(tensors: Iterable[str], expected: set[str]) -> Counter[str]:
    """Prefix -> how many names are one of `expected` after it ("" too)."""
    counts: Counter[str] = Counter()
    for name in tensors:
        start = 0
        while True:
            if name[start:] in expected:
                counts[name[:start]] += 1
            dot = name.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    return counts


def _check_only_copy(tensors: Tensors, prefix: str, counts: Mapping[str, int]) -> None:
    """Raises UserError where another prefix marks a second copy, as of an average (EMA)."""
    copies = [
        other
        for other, count in counts.items()
        if 2 * count > counts[prefix]
        and not other.startswith(prefix)
        and not prefix.startswith(other)
    ]
    if copies:
        listed = ", ".join(sorted([prefix, *copies]))
        raise UserError(
            f"{tensors.path} holds the weights more than once, under the prefixes {listed} "
            "(one of them may be a moving average, EMA): keep one alone in the file"
        )
