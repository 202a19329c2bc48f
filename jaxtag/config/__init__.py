"""The typed configuration of a run: its schema, command-line flags and files of older versions."""
