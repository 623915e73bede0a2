"""Files of an adapter that is no PEFT method (`fedfm.models.tunables.hooked`); PEFT's own have PEFT's names."""

from __future__ import annotations

HOOKED = "adapter.json"
"""What it is (``form``), and its base model, named as in PEFT's ``adapter_config.json``."""
HOOKED_WEIGHTS = "adapter.safetensors"
"""The trained tensors, by their names in the model."""
