"""The check of annotated types at run time that jaxtyping's import hook applies in the tests."""

from beartype import BeartypeConf, beartype

# As mypy reads annotations (PEP 484): an int is accepted where a float is annotated.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
