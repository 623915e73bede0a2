"""Loading backbones, the families of architectures, and tunables."""
