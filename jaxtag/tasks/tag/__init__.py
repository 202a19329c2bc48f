"""Multi-label tagging."""
