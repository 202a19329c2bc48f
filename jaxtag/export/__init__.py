"""Models leave jaxtag: as ONNX, as StableHLO, and in the layout that Immich reads."""
