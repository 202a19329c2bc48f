"""What the manifest of a checkpoint costs: the save with and without checksums, and verifying.

    python benchmarks/checkpoint_manifest.py --processes=8 --gigabytes=4 [--folder=DIR | --store]

Several processes, each with one CPU device, save a state of random float32 numbers, which do not
compress, split among them. `--store` saves to the fake of Cloud Storage of the tests. Each process
times the save to the end, the sums of its own files, and the verification of its share; the numbers
printed are those of the slowest process, the fastest of `--repeats`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--worker", default=None, help="for this program's own use")
    arguments = parser.parse_args()
    if arguments.worker is not None:
        _work(**json.loads(arguments.worker))
        return
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    if arguments.store:
        from fake_gcs import FakeGcs

        with FakeGcs(["bucket"]) as server:
            _start(arguments, "gs://bucket/checkpoints", server.environment)
            print(f"requests: {dict(server.requests)}")
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        _start(arguments, folder, {})


def _start(arguments: argparse.Namespace, folder: str, environment: dict[str, str]) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    workers = []
    for process in range(arguments.processes):
        values = {
            "process": process,
            "count": arguments.processes,
            "port": port,
            "folder": folder,
            "size": int(arguments.gigabytes * 1e9 / 4),
            "repeats": arguments.repeats,
        }
        command = [sys.executable, __file__, f"--worker={json.dumps(values)}"]
        workers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    outputs = [worker.communicate()[0] for worker in workers]
    assert not any(worker.returncode for worker in workers)
    rows = [json.loads(output.splitlines()[-1]) for output in outputs]  # after what Gloo prints
    slowest = {
        name: min(max(row[name][i] for row in rows) for i in range(arguments.repeats))
        for name in rows[0]
    }
    for name, seconds in slowest.items():
        share = f"{100 * seconds / slowest['save without sums']:5.1f} % of the save"
        print(f"{name:<28}{seconds:8.3f} s  {share}")


def _work(process: int, count: int, port: int, folder: str, size: int, repeats: int) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", count, process)
    import numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from jaxtag.storage.paths import make_path
    from jaxtag.training import checkpoint_manifest
    from jaxtag.training.checkpoint import Checkpoints

    mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    num_arrays = 8
    rows = size // num_arrays // count // 1024
    local = np.random.default_rng(process).standard_normal((rows, 1024), np.float32)
    state = {
        f"array{n}": jax.make_array_from_single_device_arrays(
            (rows * count, 1024), split, [jax.device_put(local + n, jax.local_devices()[0])]
        )
        for n in range(num_arrays)
    }
    own_sums, write = checkpoint_manifest.sum_own_files, checkpoint_manifest.write
    spent = {"own sums": 0.0}

    def timed_sums(*arguments) -> None:
        began = time.perf_counter()
        own_sums(*arguments)
        spent["own sums"] = time.perf_counter() - began

    times: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for name in ("save without sums", "save"):
            is_summed = name == "save"
            checkpoint_manifest.sum_own_files = timed_sums if is_summed else lambda *_: None
            checkpoint_manifest.write = write if is_summed else lambda *_: None
            directory = make_path(folder) / f"{repeat} {name}".replace(" ", "_")
            multihost_utils.sync_global_devices("start")
            began = time.perf_counter()
            with Checkpoints(directory, keep_last=1) as checkpoints:
                checkpoints.save(1, state)
                checkpoints.wait()
            multihost_utils.sync_global_devices("end")
            times.setdefault(name, []).append(time.perf_counter() - began)
            if is_summed:
                times.setdefault("own sums", []).append(spent["own sums"])
                began = time.perf_counter()
                manifest = checkpoint_manifest.read(directory / "1")
                checkpoint_manifest.verify_share(directory / "1", manifest, process, count)
                times.setdefault("verify own share", []).append(time.perf_counter() - began)
                began = time.perf_counter()
                if process == 0:
                    checkpoint_manifest.check_sizes(directory / "1")
                times.setdefault("check sizes or listing", []).append(time.perf_counter() - began)
            multihost_utils.sync_global_devices("verified")
            if process == 0:
                shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(times))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
