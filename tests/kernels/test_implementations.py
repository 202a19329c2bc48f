"""The table of implementations: the first that applies, platform by platform."""

from jax import lax

from jaxtag.kernels.implementations import Implementation, ImplementationTable, always

TABLE: ImplementationTable[int] = ImplementationTable(
    {
        "cpu": (
            Implementation("small", lambda spec: spec < 3, lambda spec, x: x + spec),
            Implementation("even", lambda spec: spec % 2 == 0, lambda spec, x: x * spec),
        ),
        "default": (Implementation("plain", always, lambda spec, x: x - spec),),
    }
)


def names(spec: int) -> dict[str, str]:
    return {platform: chosen.name for platform, chosen in TABLE.select(spec).items()}


def test_the_first_that_applies_is_selected() -> None:
    assert names(2) == {"cpu": "small", "default": "plain"}
    assert names(4) == {"cpu": "even", "default": "plain"}


def test_a_platform_without_any_gets_the_default() -> None:
    assert names(5) == {"default": "plain"}
    assert lax.platform_dependent(10, **TABLE.functions(5)) == 5


def test_functions_know_their_specification() -> None:
    assert lax.platform_dependent(10, **TABLE.functions(4)) == 40
