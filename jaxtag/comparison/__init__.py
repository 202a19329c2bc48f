"""The survey's table: architectures by data sets, each cell a run of its own."""
