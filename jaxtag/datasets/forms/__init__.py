"""Forms in which people keep images with captions, tags or classes, one module each.

A `FileForm` is what one file of annotations holds (one a split, it may be); a `LayoutForm` is a
folder as a tool lays it out. `registry.py` lists them, `detect.py` finds the one that a source is
in. Each reads into the rows of `jaxtag.datasets.annotations`.
"""
