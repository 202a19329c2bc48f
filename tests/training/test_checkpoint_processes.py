"""Two processes save one checkpoint; one process reads it, and two read it again."""

import os
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np

from jaxtag.training import checkpoint_manifest
from jaxtag.training.checkpoint import Checkpoints

PROGRAM = """
    import sys
    import grain, jax, jax.numpy as jnp, numpy as np
    from absl import flags
    flags.FLAGS(["program"])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[1]), initialization_timeout=60)
    from jax.experimental import multihost_utils
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from jaxtag.errors import UserError
    from jaxtag.training.checkpoint import Checkpoints

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jax.make_array_from_callback((8, 2), split, lambda i: np.arange(16.).reshape(8, 2)[i])
    data = grain.MapDataset.range(100)[jax.process_index()::2].to_iter_dataset()
    iterator = iter(data)
    with Checkpoints(sys.argv[3], keep_last=2) as checkpoints:
        for number in range(1, 5):
            next(iterator)
            x = step(x)
            checkpoints.save(number, {"x": x}, iterator, {"n": number})
        checkpoints.wait()
        # Process 0 alone removes old steps, in its own time.
        multihost_utils.sync_global_devices("written")
        assert checkpoints.steps() == [3, 4], checkpoints.steps()
        again = iter(data)
        wanted = {"x": jax.ShapeDtypeStruct((8, 2), jnp.float32, sharding=split)}
        restored = checkpoints.restore(wanted, iterator=again)
        assert restored.step == 4 and restored.config == {"n": 4}
        for shard, ours in zip(restored.state["x"].addressable_shards, x.addressable_shards):
            np.testing.assert_array_equal(shard.data, ours.data)
        assert next(again) == next(iterator) == 8 + jax.process_index()
        try:
            checkpoints.restore(wanted, step=9)
        except UserError:
            print("done", flush=True)
    jax.distributed.shutdown()
"""


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    environment = {
        **os.environ,
        "PYTHONPATH": os.getcwd(),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(index), address, tmp_path / "checkpoints"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            output, errors = process.communicate(timeout=90)
            assert process.returncode == 0 and output.endswith("done\n"), errors
    finally:
        for process in processes:
            process.kill()
    checkpoint_manifest.verify(tmp_path / "checkpoints" / "4")
    abstract_state = {"x": jax.ShapeDtypeStruct((8, 2), jnp.float32)}
    state = Checkpoints(tmp_path / "checkpoints", keep_last=2).restore(abstract_state).state
    np.testing.assert_array_equal(state["x"], np.arange(16.0).reshape(8, 2) + 4)
