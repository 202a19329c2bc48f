"""Paths and files: local folders, object stores, atomic writes."""
