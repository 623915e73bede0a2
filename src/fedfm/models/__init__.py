"""Backbones, families of architectures, and tunables."""
