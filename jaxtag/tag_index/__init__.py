"""The tag index: pictures as vectors, their tags, and new pictures tagged by their neighbours."""

from jaxtag.tag_index.index import TWO_PASS, VOTE, TagIndex, Vote
from jaxtag.tag_index.storage import Store
from jaxtag.tag_index.vectors import METRICS, Rows

__all__ = ["METRICS", "TWO_PASS", "VOTE", "Rows", "Store", "TagIndex", "Vote"]
