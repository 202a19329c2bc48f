"""Preparing data sets of any size: a table is dealt to shards, each written by itself, anywhere."""
