"""A function that is compiled anew is noticed, and what made it so."""

import jax
import jax.numpy as jnp

from jaxtag.perf.profile.recompilation import Recompilations


def test_recompilations_are_told_with_what_changed():
    def doubled(state, batch):
        return {"w": state["w"] * batch["x"].sum()}

    function = jax.jit(doubled, donate_argnums=0)
    state, batch = {"w": jnp.ones(3)}, {"x": jnp.ones(4)}
    function.lower(state, batch).compile()
    with Recompilations("doubled", state, batch) as watch:
        for batch in ({"x": jnp.ones(4)}, {"x": jnp.ones(5)}, {"x": jnp.ones(5)}):
            before, state = state, function(state, batch)
            watch.record_call(before, batch)
    (again,) = watch.records
    assert again["call"] == 1 and again["seconds"] > 0
    (change,) = again["changes"]
    assert change.startswith("[1]['x']: float32[4]") and "→ float32[5]" in change


def test_a_type_that_is_weak_is_named():
    def doubled_weakly(x):
        return 2 * x

    function = jax.jit(doubled_weakly)
    strong, weak = jnp.float32(1), jnp.asarray(1.0)
    function.lower(strong).compile()
    with Recompilations("doubled_weakly", strong) as watch:
        function(weak)
        watch.record_call(weak)
    ((change,),) = (again["changes"] for again in watch.records)
    assert "weakly typed" in change.partition("→")[2]
