"""Two adapters in one LoRA layer, against plain peft with two adapters."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from peft import PeftModel

from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import DualLora


def test_the_layer_adds_two_adapters_that_plain_peft_opens(tmp_path: Path) -> None:
    def backbone() -> transformers.PreTrainedModel:
        return load_backbone(ModelSettings(path="builtin:tiny-gpt2"), transformers.AutoModelForCausalLM, seed=0)

    tunable = DualLora(r=2, lora_alpha=6).attach(backbone(), task_type="CAUSAL_LM", seed=0)
    generator = torch.Generator().manual_seed(0)
    tunable.write({name: torch.randn(t.shape, generator=generator) for name, t in tunable.read().items()})
    tokens = torch.arange(12).view(2, 6)
    tunable.eval()
    with torch.no_grad():
        joined = tunable.model(input_ids=tokens).logits
    tunable.save(tmp_path, None)

    whole = PeftModel.from_pretrained(backbone().model, tmp_path).eval()
    apart = PeftModel.from_pretrained(backbone().model, tmp_path / "shared", adapter_name="shared").eval()
    apart.load_adapter(str(tmp_path / "personal"), adapter_name="personal")
    with torch.no_grad():
        torch.testing.assert_close(whole(input_ids=tokens).logits, joined, rtol=1e-4, atol=1e-4)
        alone = apart(input_ids=tokens).logits
        apart.base_model.set_adapter(["shared", "personal"])
        torch.testing.assert_close(apart(input_ids=tokens).logits, joined, rtol=1e-4, atol=1e-4)
    assert (alone - joined).abs().max() > 0.01


def test_the_personal_adapter_stays_with_its_client() -> None:
    assert DualLora().share == "not *.personal.*"
