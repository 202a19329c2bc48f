"""Detects which process of a job this is, and connects it to the others.

JAX detects Cloud TPU, GKE, Slurm and Open MPI; elsewhere flags say it. What JAX leaves to trial and
error (which GPUs a Slurm task takes, a coordinator that no other machine can reach, processes that
disagree about their number) is checked here, each wait with a time limit.
"""

import collections
import dataclasses
import faulthandler
import importlib.util
import os
import re
import socket

import jax
from jax._src import clusters
from jax.experimental import multihost_utils

from jaxtag.distributed import rendezvous
from jaxtag.errors import ProcessLostError, TransientError, UsageError, UserError

# A process whose heartbeat stops for so long counts as lost, and JAX ends the others. On clusters
# longer than a host stands still that compiles with all its cores, swaps or is moved.
_HEARTBEAT_SECONDS = 100
_LOCAL_HEARTBEAT_SECONDS = 30  # on one machine
_SHUTDOWN_SECONDS = 30
_CONNECT_SECONDS = 60  # after the rendezvous, when all are there
# For all processes to come: a cluster starts pods and machines one after the other.
_CLUSTER_SECONDS = 1800
_FLAGS_SECONDS = 300
_MAX_TABLE_ROWS = 32  # a pod has thousands of processes
_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[?::1\]?)$")


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """One process of a job, in the terms of `jax.distributed.initialize`.

    Attributes:
        coordinator_address: HOST:PORT at which process 0 listens.
        num_processes: Processes of the job.
        process_id: Index of this process, starting at 0.
        local_device_ids: The GPUs that this process takes; None: all that it sees.
        detected_by: Where the information comes from: "flags" or the name of the cluster.
    """

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None
    detected_by: str = "flags"


def detect_cluster(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    seconds: int | None = None,
) -> ProcessInfo | None:
    """Describes this process, by the arguments and, for those that are None, by the cluster.

    Args:
        coordinator_address: HOST:PORT of process 0.
        num_processes: Processes of the job.
        process_id: Index of this one.
        seconds: Time limit for the machine of process 0 to come; by default 30 minutes.

    Returns:
        None if there is one process only.

    Raises:
        UsageError: The arguments and the cluster do not say enough, or contradict each other.
        TransientError: The cluster's own information cannot be read, or process 0 does not come.
    """
    from_flags = (coordinator_address, num_processes, process_id)
    local_device_ids, detected_by = None, "flags"
    if None in from_flags and (cluster := _detected_cluster()) is not None:
        address, count, index = _query(cluster, *from_flags, seconds or _CLUSTER_SECONDS)
        coordinator_address = address if coordinator_address is None else coordinator_address
        num_processes = count if num_processes is None else num_processes
        process_id = index if process_id is None else process_id
        local_device_ids = _local_device_ids(*_processes_on_this_machine())
        detected_by = cluster.name or cluster.__name__
    elif from_flags == (None, None, None):
        _check_not_open_mpi_5()
        return None
    if coordinator_address is None:
        raise _missing("coordinator_address")
    if num_processes is None:
        raise _missing("num_processes")
    if process_id is None:
        raise _missing("process_id")
    if num_processes == 1:
        return None
    process = ProcessInfo(
        coordinator_address, num_processes, process_id, local_device_ids, detected_by
    )
    _check(process)
    return process


def initialize(process: ProcessInfo, seconds: int | None = None) -> str:
    """Joins the job on JAX's distributed runtime; on CPU with Gloo's collectives.

    Args:
        process: As `detect_cluster` returns it.
        seconds: Time limit for all processes to come; by default 30 minutes on a cluster, and 5
            where flags describe the job.

    Returns:
        A readable table of the processes and their devices on process 0; "" on the others.

    Raises:
        ProcessLostError: A process did not come in time.
        UserError: Two disagree about what the job is.
    """
    host, _, port = process.coordinator_address.rpartition(":")
    if seconds is None:
        seconds = _FLAGS_SECONDS if process.detected_by == "flags" else _CLUSTER_SECONDS
    try:
        own = rendezvous.Peer(process.process_id, process.num_processes)
        peers = rendezvous.rendezvous(host.strip("[]"), int(port), own, seconds)
    except rendezvous.RendezvousError as problem:
        kind = ProcessLostError if problem.transient else UserError
        raise kind(f"{problem}. {_advice(host)}") from problem
    # When another process is lost, JAX aborts this one from a thread of its own. Printing the
    # stacks of all threads then, as absl does, can crash: in one of ten times where these run.
    if faulthandler.is_enabled():
        faulthandler.enable(all_threads=False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        process.coordinator_address,
        process.num_processes,
        process.process_id,
        process.local_device_ids,
        cluster_detection_method="deactivate",  # `detect_cluster` has done it
        initialization_timeout=_CONNECT_SECONDS,
        heartbeat_timeout_seconds=(
            _LOCAL_HEARTBEAT_SECONDS if _LOOPBACK.match(host) else _HEARTBEAT_SECONDS
        ),
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    devices_per_process = _devices_per_process()
    # Gloo gives processes 30 seconds to meet in their first collective: here, while none compiles.
    multihost_utils.sync_global_devices("jaxtag: connected")
    if process.process_id != 0:
        return ""
    return _table(peers, devices_per_process, process.detected_by)


def _missing(flag: str) -> UsageError:
    return UsageError(f"--{flag} is missing: no cluster was detected that provides it")


def _devices_per_process() -> int:
    """Devices of each process. Raises UserError unless all processes have the same number."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        (most, _), *_, (least, _) = counts.most_common()
        raise UserError(
            f"process {most} has {counts[most]} devices, process {least} has {counts[least]}: "
            "give all the same number"
        )
    return counts[0]


def _table(peers: list[rendezvous.Peer], num_devices: int, detected_by: str) -> str:
    kind = jax.local_devices()[0].device_kind
    rows = [("process", "host", "pid", "devices")]
    for peer in peers[:_MAX_TABLE_ROWS]:
        rows.append((str(peer.process_id), peer.host, str(peer.pid), f"{num_devices} x {kind}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{len(peers)} processes (found by {detected_by})"]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    if len(peers) > _MAX_TABLE_ROWS:
        lines.append(f"and {len(peers) - _MAX_TABLE_ROWS} more")
    return "\n".join(lines)


def _detected_cluster() -> type[clusters.ClusterEnv] | None:
    """JAX's description of the cluster that this process runs on, or None."""
    for cluster in clusters.ClusterEnv._cluster_types:
        if cluster.opt_in_only_method:
            continue
        # A pod outside of an indexed job has nothing to detect; and JAX warns if the package is
        # absent.
        if cluster.__name__ == "K8sCluster" and not _is_indexed_job():
            continue
        if cluster.is_env_present():
            return cluster
    return None


def _is_indexed_job() -> bool:
    return "JOB_COMPLETION_INDEX" in os.environ and bool(importlib.util.find_spec("kubernetes"))


def _query(
    cluster: type[clusters.ClusterEnv],
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    seconds: int,
) -> tuple[str | None, int | None, int | None]:
    """(address, count, index) as `cluster` knows them, each None if the argument says it."""
    try:
        count = cluster.get_process_count() if num_processes is None else None
        if count == 1:
            return "", 1, 0
        address = None
        if coordinator_address is None:
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = cluster.get_coordinator_address(
                timeout_secs=seconds, override_coordinator_port=port
            )
        return address, count, cluster.get_process_id() if process_id is None else None
    except Exception as error:  # each cluster is queried by other means, which raise anything
        raise TransientError(
            f"this looks like a job of {cluster.__name__}, but its processes cannot be detected: "
            f"{error}. Give --coordinator_address, --num_processes and --process_id"
        ) from error


def _check_not_open_mpi_5() -> None:
    """Open MPI 5 says how many processes there are, but not where the first one is."""
    size = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if size != "1":
        raise UsageError(
            f"Open MPI started {size} processes, and does not say where they meet: give "
            "--coordinator_address=HOST:PORT (of rank 0), --num_processes=$OMPI_COMM_WORLD_SIZE "
            "and --process_id=$OMPI_COMM_WORLD_RANK"
        )


def _check(process: ProcessInfo) -> None:
    host, _, port = process.coordinator_address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--coordinator_address={process.coordinator_address}: must be HOST:PORT")
    if process.num_processes < 1 or not 0 <= process.process_id < process.num_processes:
        raise UsageError(
            f"--process_id={process.process_id} of --num_processes={process.num_processes}: must "
            "be from 0 to the number of processes less one"
        )
    if _LOOPBACK.match(host) and _num_machines() > 1:
        raise UsageError(
            f"--coordinator_address={process.coordinator_address} is reached from its own machine "
            f"only, and this job has {_num_machines()}: give the name of the machine of process 0"
        )


def _num_machines() -> int:
    """Machines of the job, as far as the environment says."""
    if "SLURM_STEP_NUM_NODES" in os.environ:
        return int(os.environ["SLURM_STEP_NUM_NODES"])
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))
    return -(-size // int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", size)))


def _processes_on_this_machine() -> tuple[int, int]:
    """(processes of the job on this machine, index of this one among them)."""
    if "SLURM_STEP_TASKS_PER_NODE" in os.environ:
        tasks_per_node: list[int] = []
        for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):  # such as 2(x3),1
            tasks, _, times = part.partition("(x")
            tasks_per_node += [int(tasks)] * int(times.rstrip(")") or 1)
        node, local_id = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_LOCALID"])
        return tasks_per_node[node], local_id
    size = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    return size, int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))


def _local_device_ids(processes: int, local_id: int) -> tuple[int, ...] | None:
    """The GPUs of one of the processes of a machine: all for one process, or one for each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([gpu for gpu in visible.split(",") if gpu])
    else:
        gpus = int(os.environ.get("SLURM_GPUS_ON_NODE", 0))
    if processes == 1 or gpus <= 1:  # one of its own: the scheduler has bound it
        return None
    if gpus != processes:
        raise UsageError(
            f"{processes} processes on a machine where each sees {gpus} GPUs: start one a node "
            f"(srun --ntasks-per-node=1), which takes all of them, or one a GPU "
            f"(--ntasks-per-node={gpus})"
        )
    return (local_id,)


def _advice(host: str) -> str:
    """What a user can check when a job did not come together."""
    advice = "Start each with the same number of processes and an index of its own"
    if _LOOPBACK.match(host):
        return f"{advice}, all on one machine: {host} is reached from nowhere else"
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError:
        return f"{advice}; the name {host} is not known here"
    return f"{advice}, and see that no firewall closes the coordinator's port"
