"""Errors of pyarrow as errors that name the file."""

import contextlib
from collections.abc import Iterator

from jaxtag.errors import UserError


@contextlib.contextmanager
def arrow_errors(where: object, advice: str = "") -> Iterator[None]:
    """Turns what pyarrow raises of a damaged file into a UserError; errors of storage pass.

    Args:
        where: The file.
        advice: What to do, behind the reason.
    """
    import pyarrow  # when needed: it takes a fifth of a second

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        # pyarrow raises an OSError without a number where it cannot understand the data.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).partition("\n")[0]
        message = f"{where}: damaged, or of another kind: {reason}"
        raise UserError(message + (f"; {advice}" if advice else "")) from error
