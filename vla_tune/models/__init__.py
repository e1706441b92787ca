"""Backbones: pixels, state and token ids -> hidden states."""
