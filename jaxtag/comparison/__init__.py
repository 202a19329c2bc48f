"""The survey's table: architectures against data sets, each cell a run of its own."""
