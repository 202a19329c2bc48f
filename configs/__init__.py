"""Experiments: one module each, with a `get_config`. The name of a module is that of --config."""
