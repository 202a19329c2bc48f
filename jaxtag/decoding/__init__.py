"""Caption decoding: greedy, sampling and beam search over a cached decoder."""
