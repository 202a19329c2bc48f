"""Which process this is: by flags, under Slurm, under Open MPI; what is refused."""

import os

import pytest

from jaxtag.distributed import initialize
from jaxtag.distributed.initialize import ProcessInfo
from jaxtag.errors import UsageError

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
PORT = 65535 - 2**12 + 1 + 1  # of job 4097, as JAX derives it
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


@pytest.fixture
def cluster(monkeypatch):
    """Sets what a cluster sets, and nothing else of the kind."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JOB_", "CUDA_VISIBLE", "TPU_", "JAX_COORD")):
            monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def test_alone(cluster):
    assert initialize.detect_cluster() is None
    assert initialize.detect_cluster("here:80", 1, 0) is None
    cluster(**SLURM | {"SLURM_NTASKS": "1"})
    assert initialize.detect_cluster() is None


def test_flags(cluster):
    assert initialize.detect_cluster("there:80", 4, 2) == ProcessInfo("there:80", 4, 2)


def test_slurm(cluster):
    cluster(**SLURM)
    assert initialize.detect_cluster() == ProcessInfo(f"node03:{PORT}", 4, 3, None, "slurm")


def test_flags_go_before_the_cluster(cluster):
    cluster(**SLURM)
    assert initialize.detect_cluster("there:80").coordinator_address == "there:80"


@pytest.mark.parametrize(
    ("tasks", "gpus", "device_ids"),
    [
        ("1(x2)", {"SLURM_GPUS_ON_NODE": "8"}, None),  # one a node takes all
        ("1(x2)", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
        ("2(x2)", {"SLURM_GPUS_ON_NODE": "2"}, (1,)),  # one a GPU
        ("4,2", {"CUDA_VISIBLE_DEVICES": "6,7"}, (1,)),
        ("2(x2)", {"CUDA_VISIBLE_DEVICES": "1"}, None),  # Slurm has bound its own to it
        ("2(x2)", {}, None),  # no GPUs
    ],
)
def test_gpus_of_a_task(cluster, tasks, gpus, device_ids):
    cluster(**SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks} | gpus)
    assert initialize.detect_cluster().local_device_ids == device_ids


def test_gpus_that_no_task_would_see_are_refused(cluster):
    cluster(**SLURM | {"SLURM_GPUS_ON_NODE": "8"})
    with pytest.raises(UsageError, match=r"2 processes .* sees 8 GPUs: .*--ntasks-per-node=1"):
        initialize.detect_cluster()


def test_open_mpi(cluster):
    cluster(**OPEN_MPI)
    process = initialize.detect_cluster()
    assert process.coordinator_address.startswith("10.96.0.1:")
    assert (process.num_processes, process.process_id, process.detected_by) == (2, 1, "ompi")


def test_open_mpi_5_needs_the_coordinator_address(cluster):
    cluster(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="1")
    with pytest.raises(UsageError, match="give --coordinator_address=HOST:PORT"):
        initialize.detect_cluster()
    assert initialize.detect_cluster("there:80", 2, 1) == ProcessInfo("there:80", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("there:80", 2, None), "--process_id is missing"),
        ((None, 2, 1), "--coordinator_address is missing"),
        (("there:80", None, 1), "--num_processes is missing"),
        (("there", 2, 1), "--coordinator_address=there: must be HOST:PORT"),
        (("there:http", 2, 1), "must be HOST:PORT"),
        (("there:80", 2, 2), "--process_id=2 of --num_processes=2: must be from 0 to"),
        (("there:80", 2, -1), "--process_id=-1"),
    ],
)
def test_wrong_flags_are_named(cluster, arguments, message):
    with pytest.raises(UsageError, match=message):
        initialize.detect_cluster(*arguments)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.1.1", "[::1]"])
def test_a_coordinator_that_other_machines_cannot_reach_is_refused(cluster, host):
    cluster(**SLURM)
    with pytest.raises(UsageError, match="from its own machine only, and this job has 2"):
        initialize.detect_cluster(f"{host}:80")
