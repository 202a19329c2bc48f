"""Tries mutated files, one after the other: `child.py KIND SEED START STOP FOLDER`.

The first cases are the sound files, one each, which must be accepted. Writes the number of a case
to stdout before it starts, and a line of JSON where it is at fault. The parent (`runner.py`) ends a
process whose case does not end.
"""

import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path

_MEMORY = 1 << 30  # bytes that a case may add
_ADDRESS_SPACE = 12 << 30  # a guard of the machine, with room for libraries


def _status(name: str) -> int:
    """A value of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def _reset_peak() -> int:
    """Lets the peak of resident memory start anew; returns what is resident."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def main() -> None:
    kind, seed, start, stop, folder = sys.argv[1:]
    import corpus
    import targets
    from mutations import mutate

    import jaxtag.errors
    from jaxtag.data.image_reader import DecodeError

    items = corpus.items(kind)
    others = [item.files[name] for item in items for name in item.mutable]
    check = targets.CHECKS
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries' own messages
        os.dup2(null, stream)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, resource.RLIM_INFINITY))
    for number in range(int(start), int(stop)):
        rng = random.Random(f"{kind}/{seed}/{number}")
        item = items[number % len(items)]
        names, files = list(item.mutable), dict(item.files)
        for _ in range(0 if number < len(items) else rng.choice((1, 1, 2))):
            name = rng.choice(names)
            files[name] = mutate(files[name], others, rng)
        case = Path(folder) / f"{kind}-{seed}-{number}"
        shutil.rmtree(case, ignore_errors=True)
        for name, content in files.items():
            path = case / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        print(number, file=out)
        before, began = _reset_peak(), time.process_time()
        fault, outcome = "", "accepted"
        try:
            check[item.check](case, rng)
        except (jaxtag.errors.UserError, DecodeError) as error:
            outcome = "refused"
            if "Traceback" in str(error) or len(str(error)) > 20_000:
                fault = f"a message of {len(str(error))} characters: {str(error)[:300]}"
            if number < len(items):
                fault = f"a sound file is refused: {error}"
        except BaseException:
            fault = traceback.format_exc()
        seconds, memory = time.process_time() - began, _status("VmHWM") - before
        if not fault and seconds > 5:
            fault = f"{seconds:.1f} s of CPU time"
        if not fault and memory > _MEMORY:
            fault = f"{memory >> 20} MiB"
        if fault:
            report = {"case": number, "item": item.name, "fault": fault}
            print(json.dumps(report), file=out)
        else:
            shutil.rmtree(case, ignore_errors=True)
        print(f"{outcome} {seconds:.3f} {memory}", file=out)
    print("end", file=out)
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
