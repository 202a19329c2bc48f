"""launch/ssh.sh with an ssh that runs what it is given on stand-ins for machines."""

import pytest
from machines import Machines, close_script


@pytest.fixture
def hosts(tmp_path):
    machines = Machines(tmp_path, "ssh.sh", ["me@one", "two"])
    yield machines
    machines.close()


HOSTS = "--hosts=me@one,two"


def test_each_host_is_a_process_of_one_job(hosts, tmp_path):
    run = ["train", "--config=a b", f"--workdir={tmp_path / 'run'}"]
    done = hosts(HOSTS, "--port=1234", *run)
    assert done.returncode == 0, done.stderr
    for index in (0, 1):
        (line,) = hosts.ran(index)
        assert line.endswith(
            f"--workdir={tmp_path / 'run'} --coordinator_address=one:1234 --num_processes=2 "
            f"--process_id={index} --initialization_timeout=1800"
        )
        assert "--editable .[cuda]" in hosts.ran(index, "pip|")[-1]
    assert hosts(HOSTS, *run).returncode == 0
    assert not hosts.seen("scp ")


def test_closed_and_opened_again_it_follows(hosts):
    for index in (0, 1):
        hosts.end(index, "wait")
    script = hosts.start(HOSTS, "train", "--config=a b")
    hosts.until(lambda: hosts.ran(0) and hosts.ran(1))
    close_script(script)
    other = hosts(HOSTS, "train", "--config=other")
    assert other.returncode == 1 and "another command runs there" in other.stderr
    script = hosts.start(HOSTS, "train", "--config=a b")
    for home in hosts.homes:
        (home / "go").write_text("0")
    assert script.wait(40) == 0
    assert len(hosts.ran(0)) == 1


@pytest.mark.parametrize(
    ("endings", "status"),
    [((["70", "0"], ["134", "0"]), 0), ((["wait"], ["1"]), 1), ((["75"] * 3, ["75"] * 3), 75)],
)
def test_hosts_start_again_or_end(hosts, endings, status):
    for index, lines in enumerate(endings):
        hosts.end(index, *lines)
    assert hosts(HOSTS, "train").returncode == status


def test_a_host_that_is_not_reached(hosts):
    (hosts.stubs / "unreachable").touch()
    done = hosts(HOSTS, "train")
    assert done.returncode == 1
    assert "installing or starting failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--hosts is missing"),
        ([HOSTS, "--port=x", "train"], "--port=x is not a number"),
        ([HOSTS, "nothing"], "no command 'nothing'"),
        ([HOSTS, "--fast"], "unknown option --fast"),
    ],
)
def test_wrong_use(hosts, arguments, message):
    done = hosts(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
