"""The tag index: pictures as vectors, their tags, and new pictures tagged by their neighbours."""

from jaxtag.evaluation.neighbours.rows import METRICS, Rows
from jaxtag.evaluation.neighbours.store import Store
from jaxtag.evaluation.neighbours.tag_index import TWO_PASS, VOTE, TagIndex, Vote

__all__ = ["METRICS", "TWO_PASS", "VOTE", "Rows", "Store", "TagIndex", "Vote"]
