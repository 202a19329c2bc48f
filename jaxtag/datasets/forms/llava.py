"""Conversations about images as LLaVA is trained on them: the first answer is the caption.

`[{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}]`;
https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md. ShareGPT's form is the
same.
"""

from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, Row, Table, clean_file
from jaxtag.datasets.forms.base import JsonForm, dict_entries
from jaxtag.datasets.odd_entries import OddEntries

_PLACEHOLDER = "<image>"


def _matches(content: Any) -> bool:
    return any(isinstance(e.get("conversations"), list) for e in dict_entries(content))


def _read(content: Any, where: str, kind: str | None) -> Table:
    del kind  # captions only
    table, odd = Table(), OddEntries()
    num_further = 0
    for number, entry in enumerate(content):
        location = f"{where}, entry {number}"
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        answers = _answers(turns)
        if not isinstance(turns, list) or not answers:
            odd.add(location, "it has no answer of gpt in its conversations")
            continue
        file = entry.get("image")
        if file is None:
            table.problems.append((location, "a conversation without an image"))
        elif not isinstance(file, str) or not file.strip():
            odd.add(location, '"image" is not the name of one image')
        else:
            num_further += len(answers) > 1
            table.rows.append(Row(location, clean_file(file), CAPTIONS, answers[:1]))
    odd.report(len(table.rows), table.problems)
    if num_further:
        table.warnings.append(
            f"{where}: {num_further:,} conversations have several answers: the first is the caption"
        )
    return table


def _answers(turns: Any) -> list[str]:
    """The texts that are not the user's."""
    dicts = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    values = [turn.get("value") for turn in dicts if turn.get("from") in ("gpt", "assistant")]
    return [value.replace(_PLACEHOLDER, "").strip() for value in values if isinstance(value, str)]


FORM = JsonForm("llava", "conversations in LLaVA's JSON", _matches, _read)
