"""Loss functions: pure, usable without the rest of jaxtag."""
