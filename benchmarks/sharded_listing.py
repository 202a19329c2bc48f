"""Memory and time of dealing a table of made-up names to shards, as `prepare --num_shards` does.

    python benchmarks/sharded_listing.py [--images=10000000] [--shards=256]

Writes a table of JSON lines with tags, makes the plan, and reads the work list of a shard. Prints
JSON: seconds of a core for each, and the largest resident memory of the process then, in MB.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from jaxtag.datasets.sharded.worklists import make_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "tags.jsonl"
        with table.open("w") as file:
            for number in range(args.images):
                tags = [f"tag {number % 97}", f"tag {number % 1009}"]
                file.write(
                    json.dumps({"file": f"{number % 1000:03}/{number:09}.jpg", "tags": tags})
                )
                file.write("\n")
        figures = {"images": args.images, "start_mb": peak_megabytes()}
        began = time.process_time()
        plan = make_plan("made_up", table, Path(folder) / "plan", args.shards)
        figures |= {"deal_seconds": round(time.process_time() - began, 1)}
        figures |= {"deal_mb": peak_megabytes()}
        began = time.process_time()
        figures |= {"in_shard_0": len(plan.worklist(0))}
        figures |= {"shard_seconds": round(time.process_time() - began, 2)}
        print(json.dumps(figures | {"shard_mb": peak_megabytes()}))


def peak_megabytes() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


if __name__ == "__main__":
    main()
