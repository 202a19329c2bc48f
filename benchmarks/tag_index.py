"""Exact search of the tag index beside faiss-cpu's flat index and scikit-learn, on CPU.

    python benchmarks/tag_index.py --peer_python=/path/to/python [--sizes=100000x128x1024]

The peer needs faiss-cpu and scikit-learn. Random unit vectors, cosine similarity (faiss: inner
product), the 10 nearest; both sides must find the same neighbours. They are pinned to the same
cores and take turns.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import turns

SIZES = "100000x128x1024,100000x512x1024,20000x2048x1024,100000x128x1"  # rows x numbers x queries
COUNT = 10
PEERS = ("faiss", "scikit-learn")


def vectors(size: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows, queries), float32 of length 1."""
    rows, dimension, queries = map(int, size.split("x"))
    rng = np.random.RandomState(0)
    drawn = rng.standard_normal((rows + queries, dimension)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn[:rows], drawn[rows:]


def theirs(args: argparse.Namespace) -> None:
    import faiss
    from sklearn.neighbors import NearestNeighbors

    faiss.omp_set_num_threads(args.threads)
    rows, queries = vectors(args.size)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    brute = NearestNeighbors(n_neighbors=COUNT, algorithm="brute", n_jobs=args.threads).fit(rows)
    searches = {
        "faiss": lambda: flat.search(queries, COUNT)[1],
        "scikit-learn": lambda: brute.kneighbors(queries, return_distance=False),
    }

    def answer(word: str) -> object:
        if word.endswith(" neighbours"):
            return searches[word.removesuffix(" neighbours")]().tolist()
        return turns.seconds(searches[word])

    turns.serve(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", help="a Python with faiss-cpu and scikit-learn")
    parser.add_argument("--sizes", default=SIZES, help="rows x numbers x queries, with commas")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--threads", type=int, default=2, help="cores that all sides may use")
    parser.add_argument("--size", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    turns.pin(args.threads)
    if args.serve:
        theirs(args)
        return
    for size in args.sizes.split(","):
        measure(args, size)


def measure(args: argparse.Namespace, size: str) -> None:
    from jaxtag.tag_index import VectorIndex

    rows, queries = vectors(size)
    index = VectorIndex(rows.shape[1])
    index.add(rows)

    def search() -> np.ndarray:
        return index.search(queries, COUNT)[1]

    ids = search()
    with (
        tempfile.TemporaryDirectory() as folder,
        turns.peer(args, Path(folder), "--size", size) as ask,
    ):
        for peer in PEERS:
            same = (ids == np.array(ask(f"{peer} neighbours"))).mean()
            times = [(turns.seconds(search), ask(peer)) for _ in range(args.rounds)]
            turns.report(f"{size} {peer} (same: {same:.4%})", *map(list, zip(*times, strict=True)))


if __name__ == "__main__":
    main()
