"""Every field of a JSON value with every wrong kind of value."""

import copy

VALUES = [
    *(None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**30, "", " ", "x", "\0", "\ud83d"),
    *("../0.jpg", "/", "0.jpg\n1.jpg", [], {}, [None], [[]], {"id": 1}, [1, "a"], "9" * 5000),
]


def places(value, path=()):
    """The path to each value inside of one, and to the value itself; of lists the first two."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:2]) if isinstance(value, list) else items
    for key, item in items:
        yield from places(item, (*path, key))


def changed(content, path, value):
    """A copy of `content` with another value at `path`; without it where that is `places`."""
    content = copy.deepcopy(content)
    if not path:
        return value
    *above, last = path
    parent = content
    for key in above:
        parent = parent[key]
    if value is places:
        del parent[last]
    else:
        parent[last] = value
    return content
