"""Which process of a job this is, and its connection to the others.

JAX finds that out on Cloud TPU, GKE, Slurm and Open MPI; elsewhere flags say it. What JAX leaves to
trial (which GPUs a task of Slurm takes, a coordinator that no other machine can reach, a number
that two processes understand differently) is checked here, each wait with a limit.
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
from jaxtag.errors import UsageError, UserError

# After so long without a sign of life a process counts as lost, and JAX ends the others.
HEARTBEAT_SECONDS = 30
_SHUTDOWN_SECONDS = 30
_CONNECT_SECONDS = 60  # when all are known to be there
_RESOLVE_SECONDS = 60  # for the coordinator's name, on TPUs
_SHOWN = 32  # processes of a table; a pod has thousands
_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[?::1\]?)$")


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """A process in its job.

    Attributes:
      coordinator: HOST:PORT at which process 0 listens.
      count: processes of the job.
      index: of this one, from 0.
      devices: numbers of the GPUs that it takes; None: all that it sees.
      found_by: what said so.
    """

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    found_by: str = "flags"


def detect_cluster(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> ProcessInfo | None:
    """This process's place, from the arguments and, for what they leave out, from the cluster.

    Returns:
      None where there is one process only.

    Raises:
      UsageError: they do not say enough, or contradict themselves.
      UserError: the cluster's own information cannot be read.
    """
    given, devices, found_by = (coordinator, count, index), None, "flags"
    if None in given and (cluster := _cluster()) is not None:
        found = _ask(cluster, given)
        coordinator, count, index = (
            now if now is not None else then for now, then in zip(given, found, strict=True)
        )
        devices, found_by = _devices(*_on_this_machine()), cluster.name or cluster.__name__
    elif given == (None, None, None):
        _check_not_alone()
        return None
    named = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    absent = [name for name, value in named.items() if value is None]
    if absent:
        raise UsageError(f"--{absent[0]} is missing: no cluster was found that says it")
    if count == 1:
        return None
    place = ProcessInfo(coordinator, count, index, devices, found_by)
    _check(place)
    return place


def initialize(place: ProcessInfo, seconds: int) -> str:
    """Joins the job, on JAX's distributed runtime; on CPU with Gloo's collectives.

    Args:
      seconds: after which a process that has not come is an error.

    Returns:
      A readable table of the processes and their devices; "" but for process 0.

    Raises:
      UserError: a process did not come, or two do not agree on what the job is.
    """
    host, _, port = place.coordinator.rpartition(":")
    try:
        own = rendezvous.Peer(place.index, place.count)
        members = rendezvous.rendezvous(host.strip("[]"), int(port), own, seconds)
    except rendezvous.Failed as problem:
        raise UserError(f"{problem}. {_advice(host)}") from problem
    # Where another process is lost, JAX aborts this one from a thread of its own. To print then the
    # stacks of all threads, as absl does, can crash: in one of ten times where these run.
    if faulthandler.is_enabled():
        faulthandler.enable(all_threads=False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        place.devices,
        cluster_detection_method="deactivate",  # `find` has asked the cluster
        initialization_timeout=_CONNECT_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        (most, _), *_, (least, _) = counts.most_common()
        raise UserError(
            f"process {most} has {counts[most]} devices, process {least} has {counts[least]}: "
            "give all the same number"
        )
    # Gloo gives processes 30 seconds to meet in their first exchange: here, while none compiles.
    multihost_utils.sync_global_devices("jaxtag: connected")
    return _table(members, counts[0], place.found_by) if place.index == 0 else ""


def _table(members: list[rendezvous.Peer], devices: int, found_by: str) -> str:
    kind = jax.local_devices()[0].device_kind
    rows = [("process", "host", "pid", "devices")]
    for member in members[:_SHOWN]:
        rows.append((str(member.index), member.host, str(member.pid), f"{devices} x {kind}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{len(members)} processes (found by {found_by})"]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    if len(members) > _SHOWN:
        lines.append(f"and {len(members) - _SHOWN} more")
    return "\n".join(lines)


def _cluster() -> type[clusters.ClusterEnv] | None:
    """What JAX knows about where it runs, or None."""
    for cluster in clusters.ClusterEnv._cluster_types:
        if cluster.opt_in_only_method:
            continue
        # Of a pod that is no part of an indexed job there is nothing to find; and JAX warns where
        # the package is absent.
        if cluster.__name__ == "K8sCluster" and not _is_indexed_job():
            continue
        if cluster.is_env_present():
            return cluster
    return None


def _is_indexed_job() -> bool:
    return "JOB_COMPLETION_INDEX" in os.environ and bool(importlib.util.find_spec("kubernetes"))


def _ask(
    cluster: type[clusters.ClusterEnv], given: tuple[str | None, int | None, int | None]
) -> tuple[str | None, int | None, int | None]:
    """(coordinator, count, index) as `cluster` has it, None where `given` says it."""
    try:
        count = cluster.get_process_count() if given[1] is None else None
        if count == 1:
            return "", 1, 0
        address = None
        if given[0] is None:
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = cluster.get_coordinator_address(
                timeout_secs=_RESOLVE_SECONDS, override_coordinator_port=port
            )
        return address, count, cluster.get_process_id() if given[2] is None else None
    except Exception as error:  # of whatever the cluster is asked with
        raise UserError(
            f"this looks like a job of {cluster.__name__}, and its processes cannot be found out: "
            f"{error}. Say --coordinator_address, --num_processes and --process_id"
        ) from error


def _check_not_alone() -> None:
    """Open MPI 5 says how many processes there are, but not where the first one is."""
    size = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
    if size != "1":
        raise UsageError(
            f"Open MPI started {size} processes, and does not say where they meet: give "
            "--coordinator_address=HOST:PORT (of rank 0), --num_processes=$OMPI_COMM_WORLD_SIZE "
            "and --process_id=$OMPI_COMM_WORLD_RANK"
        )


def _check(place: ProcessInfo) -> None:
    host, _, port = place.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--coordinator_address={place.coordinator}: must be HOST:PORT")
    if place.count < 1 or not 0 <= place.index < place.count:
        raise UsageError(
            f"--process_id={place.index} of --num_processes={place.count}: must be from 0 to "
            "the number of processes less one"
        )
    if _LOOPBACK.match(host) and _machines() > 1:
        raise UsageError(
            f"--coordinator_address={place.coordinator} is reached from its own machine only, "
            f"and this job has {_machines()}: give the name of the machine of process 0"
        )


def _machines() -> int:
    """Machines of the job, as far as the environment tells."""
    if "SLURM_STEP_NUM_NODES" in os.environ:
        return int(os.environ["SLURM_STEP_NUM_NODES"])
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))
    return -(-size // int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", size)))


def _on_this_machine() -> tuple[int, int]:
    """(processes of the job on this machine, which of them this is)."""
    if "SLURM_STEP_TASKS_PER_NODE" in os.environ:
        each: list[int] = []
        for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):  # such as 2(x3),1
            tasks, _, times = part.partition("(x")
            each += [int(tasks)] * int(times.rstrip(")") or 1)
        return each[int(os.environ["SLURM_NODEID"])], int(os.environ["SLURM_LOCALID"])
    size = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    return size, int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))


def _devices(processes: int, index: int) -> tuple[int, ...] | None:
    """The GPUs of one of the processes on a machine: all for one process, or one for each."""
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
    return (index,)


def _advice(host: str) -> str:
    """What a user can look at when a job did not come together."""
    advice = "Start each with the same number of processes and an index of its own"
    if _LOOPBACK.match(host):
        return f"{advice}, all on one machine: {host} is reached from nowhere else"
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError:
        return f"{advice}; the name {host} is not known here"
    return f"{advice}, and see that no firewall closes the coordinator's port"
