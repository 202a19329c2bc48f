"""What `jaxtag.annotate` is made of: rows by models and an index, resuming, processes, watching."""
