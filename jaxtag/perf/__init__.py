"""Performance of compiled programs: FLOPs, memory traffic, collectives; hardware limits."""
