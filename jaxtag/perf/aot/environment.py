"""What a process needs that compiles for devices that are not there."""

import os

import jax


def prepare() -> None:
    """For a process that compiles and computes nothing; to be called before JAX looks for devices.

    libtpu would look for a TPU, ask a server of Google's cloud about it, and let one process in at
    a time.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
