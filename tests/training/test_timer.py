import jax.numpy as jnp

from jaxtag.training.timer import StartupTimer, StepTimer


def test_a_part_of_the_start_ends_once():
    startup = StartupTimer()
    assert startup.done("imports")
    before = str(startup)
    assert not startup.done("imports")
    assert str(startup) == before
    assert startup.done("data")
    assert str(startup).startswith("first step after ")


def test_tells_of_the_first_step_alone():
    messages = []
    clock = StepTimer(StartupTimer(), messages.append)
    for _ in range(3):
        clock.drawn(0.0)
        clock.dispatched(jnp.zeros(()))
    clock.close()
    assert len(messages) == 1
    names = [part.split()[:-1] for part in messages[0].partition(": ")[2].split(", ")]
    assert names == [["first", "batch"], ["compilation"], ["step"]]
