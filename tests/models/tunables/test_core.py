"""Tunables with cores: fixed bases that everyone derives alike, an exact mean, plain LoRA as their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import LoraSb, Ravan
from fedfm.models.tunables.bases import leading_bases, random_basis
from fedfm.models.tunables.core import CoreSettings
from fedfm.params import Params, map_params
from tests.models.cases import load

QUERY = "bert.encoder.layer.0.attention.self.query"
CORES = [
    LoraSb(r=4, lora_alpha=8),
    LoraSb(r=4, lora_alpha=8, basis="random"),
    Ravan(r=2, lora_alpha=6, heads=3),
    Ravan(r=8, heads=4),
]


def attach(tune: CoreSettings, seed: int = 0, model: str = "tiny-bert") -> Tunable:
    return tune.attach(load(model, "text"), task_type="SEQ_CLS", seed=seed)


def drawn(tunable: Tunable, seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in tunable.read().items()}


def change(tunable: Tunable, params: Params) -> torch.Tensor:
    """What the tunable adds to the query's matrix, from the merged model."""
    tunable.write(params)
    before = load("tiny-bert", "text").model.get_submodule(QUERY).weight.detach()
    return tunable.merged().get_submodule(QUERY).weight.double() - before.double()


@pytest.mark.parametrize("tune", CORES, ids=repr)
def test_the_mean_of_what_is_sent_is_the_mean_of_the_updates(tune: CoreSettings) -> None:
    tunable = attach(tune)
    shares, clients = (0.2, 0.3, 0.5), [tunable.folded(drawn(tunable, seed)) for seed in range(3)]
    expected = sum(p * change(tunable, params) for p, params in zip(shares, clients, strict=True))
    mean = map_params(lambda *of: sum(p * each for p, each in zip(shares, of, strict=True)), *clients)
    torch.testing.assert_close(change(tunable, mean), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tune", CORES, ids=repr)
def test_folding_changes_no_update(tune: CoreSettings) -> None:
    tunable = attach(tune)
    params = drawn(tunable, 5)
    before = change(tunable, params)
    torch.testing.assert_close(change(tunable, tunable.folded(params)), before, atol=1e-6, rtol=1e-6)


def test_the_update_of_lora_sb_is_its_formula() -> None:
    tunable = attach(LoraSb(r=4, lora_alpha=12))
    params = drawn(tunable, 1)
    u, _, vt = np.linalg.svd(load("tiny-bert", "text").model.get_submodule(QUERY).weight.detach().double().numpy())
    found = change(tunable, params).numpy()
    r = params[f"base_model.model.{QUERY}.lora_R.weight"].double().numpy()
    size = 12 / 4 * np.linalg.norm(r)
    assert np.linalg.norm(found) == pytest.approx(size, rel=1e-5)
    inside = u[:, :4].T @ found @ vt[:4].T  # the same subspaces; the signs of singular vectors are free
    assert np.linalg.norm(inside) == pytest.approx(size, rel=1e-5)


def test_the_update_of_ravan_is_its_formula() -> None:
    tune = Ravan(r=2, lora_alpha=6, heads=3)
    tunable = attach(tune)
    params = drawn(tunable, 1)
    outs = random_basis(16, 6, seed=0, name=f"{QUERY}, outputs").numpy()
    ins = random_basis(16, 6, seed=0, name=f"{QUERY}, inputs").numpy()
    h, s = (params[f"base_model.model.{QUERY}.lora_{part}.weight"].double().numpy() for part in "Hs")
    heads = [slice(2 * i, 2 * i + 2) for i in range(3)]
    expected = 6 / 2 * sum(s[i] * outs[:, part] @ h[i] @ ins[:, part].T for i, part in enumerate(heads))
    np.testing.assert_allclose(change(tunable, params).numpy(), expected, atol=1e-5)


def test_a_client_sends_products_and_keeps_no_scale() -> None:
    tunable = attach(Ravan(r=2, heads=3))
    params = drawn(tunable, 2)
    folded = tunable.folded(params)
    for name in params:
        if name.endswith("lora_s.weight"):
            cores = name.replace("lora_s", "lora_H")
            assert torch.equal(folded[name], torch.ones(3))
            torch.testing.assert_close(folded[cores], params[cores] * params[name].view(3, 1, 1))


def test_bases_have_orthonormal_columns_and_a_key() -> None:
    basis = random_basis(20, 6, seed=1, name="m")
    torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=torch.float64))
    assert torch.equal(basis, random_basis(20, 6, seed=1, name="m"))
    for other in (random_basis(20, 6, seed=2, name="m"), random_basis(20, 6, seed=1, name="n")):
        assert not torch.allclose(basis, other)


def test_leading_bases_are_the_svd_whatever_the_threads() -> None:
    weight = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0))).Q
    weight = (weight * 0.7 ** torch.arange(30)) @ weight.T
    u, vt = leading_bases(weight, 5, seed=0, name="w")
    torch.testing.assert_close(u.T @ weight @ vt.T, torch.diag(0.7 ** torch.arange(5.0)), atol=1e-5, rtol=1e-5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = leading_bases(weight, 5, seed=0, name="w")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(u, again[0])
    assert torch.equal(vt, again[1])


@pytest.mark.parametrize("tune", CORES, ids=repr)
def test_bases_follow_the_seed_and_do_not_travel(tune: CoreSettings, tmp_path: Path) -> None:
    one, same, other = attach(tune), attach(tune), attach(tune, seed=1)
    params = drawn(one, 3)
    assert torch.equal(change(one, params), change(same, params))
    if getattr(tune, "basis", "random") == "random":
        assert not torch.allclose(change(one, params), change(other, params))
    sizes = {value.numel() for name, value in params.items() if "lora" in name}
    assert max(sizes) == tune.r**2 * getattr(tune, "heads", 1)
    one.save(tmp_path, None)
    loaded = PeftModel.from_pretrained(load("tiny-bert", "text", seed=9).model, str(tmp_path))
    written = {name for name, _ in loaded.named_parameters() if "lora" in name}
    assert all(".lora_A." in name or ".lora_B." in name for name in written)
    config = loaded.active_peft_config
    assert config.lora_alpha / config.r == tune.lora_alpha / tune.r


def test_transposed_matrices_have_the_bases_of_their_weight() -> None:
    tunable = attach(LoraSb(r=4), model="tiny-gpt2")
    layer = tunable.base_model.get_submodule("transformer.h.0.attn.c_proj")
    weight = layer.get_base_layer().weight.detach()
    a = layer.lora_A["default"].weight.detach()
    u = layer.lora_B["default"].parametrizations["weight"][0].u
    s = torch.linalg.svdvals(weight)[:4]
    torch.testing.assert_close(u.T @ weight.T @ a.T, torch.diag(s), atol=1e-5, rtol=1e-4)


def test_a_rank_beyond_the_matrix_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"tune\.r: rank 17 exceeds the matrix"):
        attach(LoraSb(r=17))
