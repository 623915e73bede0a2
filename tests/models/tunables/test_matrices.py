"""Tunables that PEFT adds to matrices: their formulas, what averaging does to them, and what is drawn for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.c3a import C3ALinear
from peft.tuners.tinylora import TinyLoraLayer
from torch import Tensor

from fedfm.capabilities import LINEAR_TUNABLE
from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import C3A, TUNABLES, FourierFT, Lora, Miss, Shira, TinyLora, TuneSettings, Vera, WaveFT
from fedfm.params import Params
from fedfm.proxies import PROXIES
from tests.models.cases import OF_MATRICES, batch, load, logits, small

QUERY = "bert.encoder.layer.0.attention.self.query"
NAME = f"base_model.model.{QUERY}"
DRAWN = ("fourierft", "waveft", "tinylora", "shira", "vera")
"""Kinds of which something is drawn that does not travel."""


def attach(settings: TuneSettings, seed: int = 0, name: str = "tiny-bert") -> Tunable:
    return settings.attach(load(name, "text"), task_type="SEQ_CLS", seed=seed)


def drawn(tunable: Tunable, seed: int, size: float = 1.0) -> Params:
    """Values around those of a tunable."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * torch.randn(value.shape, generator=generator) for name, value in tunable.read().items()
    }


def weights(model: Any, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """All matrices and vectors of a model, except those of its head."""
    state = model.state_dict()
    return {name: value.to(dtype) for name, value in state.items() if not name.startswith("classifier")}


def change(settings: TuneSettings, values: Params, seed: int = 0) -> NDArray[np.float64]:
    """ΔW of the first query matrix, by PEFT's own merge."""
    tunable = attach(settings, seed)
    tunable.write(values)
    before = load("tiny-bert", "text").model.get_parameter(f"{QUERY}.weight")
    after: Tensor = tunable.merged().get_parameter(f"{QUERY}.weight")
    return (after.detach().double() - before.detach().double()).numpy()


# formulas, computed without PEFT


def places(count: int, where: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The places of a change that is zero elsewhere."""
    found = np.argwhere(where)
    assert len(found) == count
    return found


def test_fourierft_is_the_inverse_transform_of_a_few_frequencies() -> None:
    """arXiv:2405.03003: every frequency of the change is one that was drawn (or its mirror image, of a real matrix)."""
    settings = FourierFT(n_frequency=5, scaling=3.0)
    tunable = attach(settings)
    values = drawn(tunable, 1)
    layer = tunable.model.get_submodule(NAME)
    rows, columns = layer.indices["default"].numpy()
    spectrum = np.zeros((16, 16))
    spectrum[rows, columns] = values[f"{NAME}.fourierft_spectrum"].double().numpy()
    np.testing.assert_allclose(change(settings, values), 3.0 * np.fft.ifft2(spectrum).real, atol=1e-6)
    assert len({*zip(rows, columns, strict=True)}) == 5


def test_waveft_is_an_inverse_haar_transform() -> None:
    """arXiv:2505.12532, with Haar: each coefficient adds ± λ θ / 2 to a square of four entries."""
    settings = WaveFT(n_frequency=1, scaling=3.0)
    tunable = attach(settings)
    values = drawn(tunable, 1)
    (theta,) = values[f"{NAME}.waveft_spectrum"].tolist()
    found = change(settings, values)
    square = places(4, np.abs(found) > 1e-6)
    assert square[-1].tolist() == [int(square[0][0]) + 1, int(square[0][1]) + 1]
    assert (square[0] % 2).tolist() == [0, 0]
    np.testing.assert_allclose(np.abs(found)[tuple(square.T)], 3.0 * abs(theta) / 2, atol=1e-6)


def test_shira_changes_r_entries_for_each_row_and_column() -> None:
    """arXiv:2406.13175: r·(out + in) entries, by the trained values themselves."""
    settings = Shira(r=2)
    values = drawn(attach(settings), 1)
    found = change(settings, values)
    changed = places(2 * (16 + 16), np.abs(found) > 1e-6)
    theta = values[f"{NAME}.shira_weight"].numpy()
    np.testing.assert_allclose(np.sort(found[tuple(changed.T)]), np.sort(theta), atol=1e-6)


@pytest.mark.parametrize("r", [4, 5])
def test_miss_repeats_its_shard_over_the_inputs(r: int) -> None:
    """arXiv:2409.15371; with r = 5 the last of 16 inputs is alone in its group."""
    values = drawn(attach(Miss(r=r)), 1)
    shard = values[f"{NAME}.miss_block"].numpy()
    assert shard.shape == (r, 16)
    expected = np.stack([shard[i % r] for i in range(16)], axis=1)
    np.testing.assert_allclose(change(Miss(r=r), values), expected, atol=1e-6)


@pytest.mark.parametrize("size", [4, 16])
def test_c3a_is_made_of_circulant_blocks(size: int) -> None:
    """arXiv:2407.19342: block (m, n) has w_mn[(i - j) mod b] / in or its mirror image at row i, column j."""
    values = drawn(attach(C3A(block_size=size)), 1)
    kernels = values[f"{NAME}.c3a_kernel"].numpy()
    found = change(C3A(block_size=size), values)
    index = np.subtract.outer(np.arange(size), np.arange(size))
    expected = {
        sign: np.block([[kernel[(sign * index) % size] for kernel in row] for row in kernels]) / 16 for sign in (1, -1)
    }
    assert min(np.abs(found - matrix).max() for matrix in expected.values()) < 1e-6


def test_the_gradient_of_c3a_is_that_of_its_output() -> None:
    """PEFT 0.21 passes the correlation where the convolution is the gradient by the input."""
    tunable = attach(C3A(block_size=4))
    tunable.write(drawn(tunable, 1))
    layer = tunable.model.get_submodule(NAME)
    x = torch.randn(3, 5, 16, requires_grad=True)
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    expected = torch.nn.functional.linear(x, weight, layer.base_layer.bias)
    along = torch.randn(3, 5, 16)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(C3ALinear.forward(layer, x), expected)  # what plain PEFT computes with the adapter
    kernel = layer.c3a_kernel["default"]
    for mine, right in zip(
        torch.autograd.grad(layer(x), (x, kernel), along),
        torch.autograd.grad(expected, (x, kernel), along),
        strict=True,
    ):
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-4)


def test_tinylora_moves_in_the_singular_directions() -> None:
    """arXiv:2602.04118: ΔW = B (Σ v_i P_i) A; numpy's decomposition in place of torch's."""
    tunable = attach(TinyLora(r=2, u=3))
    values = drawn(tunable, 1)
    left, singular, right = np.linalg.svd(load("tiny-bert", "text").model.get_parameter(f"{QUERY}.weight").numpy())
    signs = np.sign(left[np.abs(left[:, :2]).argmax(0), [0, 1]])
    b, a = left[:, :2] * np.sqrt(singular[:2]) * signs, (np.sqrt(singular[:2]) * signs)[:, None] * right[:2]
    layer = tunable.model.get_submodule(NAME)
    v = values[f"base_model.tinylora_v.{layer._tinylora_v_key['default']}"].numpy()
    core = np.einsum("i,ijk->jk", v, layer.tinylora_P["default"].numpy())
    np.testing.assert_allclose(change(TinyLora(r=2, u=3), values), b @ core @ a, atol=1e-5)


@pytest.mark.parametrize(("tying", "vectors"), [(0.0, 8), (0.5, 4), (1.0, 1)])
def test_tinylora_shares_vectors(tying: float, vectors: int) -> None:
    names = [name for name in attach(TinyLora(weight_tying=tying)).parameters if "tinylora_v" in name]
    assert len(names) == vectors


def test_vera_rescales_random_factors() -> None:
    """arXiv:2310.11454, eq. (2)."""
    tunable = attach(Vera(r=6))
    assert torch.equal(tunable.read()[f"{NAME}.vera_lambda_b"], torch.zeros(16))
    values = drawn(tunable, 1)
    layer = tunable.model.get_submodule(NAME)
    a, b = layer.vera_A["default"].numpy(), layer.vera_B["default"].numpy()
    d, outer = values[f"{NAME}.vera_lambda_d"].numpy(), values[f"{NAME}.vera_lambda_b"].numpy()
    np.testing.assert_allclose(change(Vera(r=6), values), np.diag(outer) @ b @ np.diag(d) @ a, atol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    """arXiv:2312.03732."""
    settings = Lora(r=4, lora_alpha=6, use_rslora=True)
    values = drawn(attach(settings), 1)
    product = values[f"{NAME}.lora_B.weight"].numpy() @ values[f"{NAME}.lora_A.weight"].numpy()
    np.testing.assert_allclose(change(settings, values), 6 / 2 * product, atol=1e-5)


# averages


def error_of_averaging(kind: str) -> float:
    """‖ΔW(mean θ) - mean ΔW(θ)‖ / ‖mean ΔW‖ over all weights of a model, for three clients, by PEFT's merge."""
    tunable = TUNABLES[kind](kind=kind, **_settings(kind)).attach(
        load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0
    )
    clients = [drawn(tunable, seed, 0.3) for seed in range(3)]
    mean = {name: torch.stack([client[name] for client in clients]).mean(0) for name in clients[0]}
    tunable.model.double()
    base = weights(load("tiny-bert", "text").model)

    def changed(values: Params) -> Tensor:
        tunable.write({name: value.double() for name, value in values.items()})
        after = weights(tunable.merged())
        return torch.cat([(after[name] - base[name]).flatten() for name in base])

    expected = torch.stack([changed(client) for client in clients]).mean(0)
    assert expected.norm() > 0.1
    return float((changed(mean) - expected).norm() / expected.norm())


def _settings(kind: str) -> dict[str, Any]:
    return {name: value for name, value in small(kind).model_dump(exclude_unset=True).items() if name != "kind"}


LINEAR = [kind for kind in TUNABLES if LINEAR_TUNABLE in TUNABLES[kind].gives]


@pytest.mark.parametrize("kind", [kind for kind in LINEAR if kind != "head"])
def test_the_mean_of_a_linear_tunable_is_the_mean_of_its_changes(kind: str) -> None:
    assert error_of_averaging(kind) < 1e-6


@pytest.mark.parametrize("kind", ["lora", "dora", "vera"])
def test_of_products_it_is_not(kind: str) -> None:
    assert kind not in LINEAR
    assert error_of_averaging(kind) > 0.01


def test_every_tunable_of_matrices_is_linear_but_two() -> None:
    assert {*OF_MATRICES} - {*LINEAR} == {"vera", "mask"}


# what is drawn


@pytest.mark.parametrize("kind", DRAWN)
def test_what_does_not_travel_is_the_same_at_both_ends(kind: str, tmp_path: Path) -> None:
    """A server and a client with the same recipe; and whoever loads the adapter, whatever torch's seed is."""
    inputs = batch(load("tiny-bert", "text"))
    torch.manual_seed(1)
    server = attach(small(kind))
    torch.manual_seed(2)
    client = attach(small(kind))
    values = drawn(server, 3)
    server.write(values)
    client.write(values)
    expected = logits(server.model, inputs)
    assert torch.equal(logits(client.model, inputs), expected)
    server.save(tmp_path, None)
    torch.manual_seed(3)
    loaded = PeftModel.from_pretrained(load("tiny-bert", "text").model, str(tmp_path))
    assert torch.equal(logits(loaded, inputs), expected)
    other = attach(small(kind), seed=1)
    other.write(values)
    assert not torch.allclose(logits(other.model, inputs), expected, atol=1e-4)


def test_another_sign_of_a_singular_direction_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompositions of other machines may have other signs, and the ends of a federation are such machines."""
    plain = attach(TinyLora())
    svd = torch.linalg.svd

    def mirrored(matrix: Tensor, full_matrices: bool = True) -> Any:
        left, singular, right = svd(matrix, full_matrices=full_matrices)
        signs = torch.tensor([-1.0, 1.0]).repeat(len(singular))[: len(singular)]
        return left * signs, singular, signs[:, None] * right

    monkeypatch.setattr(torch.linalg, "svd", mirrored)
    other = attach(TinyLora())
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(plain.model.modules(), other.model.modules(), strict=True)
        if isinstance(mine, TinyLoraLayer)
    ]
    assert len(pairs) == 8
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.tinylora_A["default"], theirs.tinylora_A["default"])
        torch.testing.assert_close(mine.tinylora_B["default"], theirs.tinylora_B["default"])


@pytest.mark.parametrize("kind", OF_MATRICES)
def test_it_starts_as_the_backbone(kind: str) -> None:
    backbone = load("tiny-bert", "text")
    inputs = batch(backbone)
    before = logits(backbone.model, inputs)
    torch.testing.assert_close(logits(attach(small(kind)).model, inputs), before)


# sizes and refusals


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (FourierFT(n_frequency=7), 7),
        (WaveFT(n_frequency=7), 7),
        (TinyLora(u=7), 7),
        (Miss(r=4), 4 * 16),
        (Shira(r=3), 3 * (16 + 16)),
        (C3A(), 16),
        (C3A(block_size=4), 16 * 16 // 4),
        (Vera(r=5), 5 + 16),
    ],
    ids=lambda value: value.kind if isinstance(value, TuneSettings) else "",
)
def test_only_what_is_trained_travels(settings: TuneSettings, values: int) -> None:
    read = attach(settings).read()
    assert sum(tensor.numel() for name, tensor in read.items() if "classifier" not in name) == 8 * values
    assert all(tensor.dtype == torch.float32 for tensor in read.values())


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        (FourierFT(), "tiny-bert", r"tune\.n_frequency: 1000 coefficients exceed the 256 entries of bert.*16 x 16"),
        (
            WaveFT(n_frequency=129),
            "tiny-llama",
            r"tune\.n_frequency: 129 .*exceed the 128 entries of .*k_proj \(8 x 16",
        ),
        (Shira(r=9), "tiny-bert", r"tune\.r: 9·\(16 \+ 16\) entries exceed those of bert"),
        (Miss(r=17), "tiny-bert", r"tune\.r: 17 exceeds the 16 inputs of bert"),
        (
            C3A(block_size=16),
            "tiny-llama",
            r"tune\.block_size: blocks of 16 do not divide .*k_proj \(8 x 16\).* have 8",
        ),
        (C3A(), "tiny-gpt2", r"tune\.kind: peft's `c3a` does not adapt matrices that are stored transposed"),
        (Vera(target_modules=["absent"]), "tiny-bert", r"tune\.target_modules: no module .* matches `absent`"),
        (TinyLora(head=False), "tiny-bert", r"tune\.head: .* would stay random"),
    ],
)
def test_what_does_not_fit_is_refused(settings: TuneSettings, name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        attach(settings, name=name)


@pytest.mark.parametrize("kind", OF_MATRICES)
def test_a_proxy_that_cuts_neurons_takes_attention_alone(kind: str) -> None:
    proxy = PROXIES["fedpft"]()
    assert proxy.refuses(small(kind)) is None
    assert "use lora" in (proxy.refuses(small(kind, target_modules="all")) or "")


def test_a_proxy_with_fewer_layers_has_no_tinylora() -> None:
    """Its vectors and what is drawn for them are numbered through all layers."""
    assert "use lora" in (PROXIES["offsite"]().refuses(TinyLora()) or "")
    assert PROXIES["offsite"]().refuses(Miss()) is None


def test_the_config_names_its_seed(tmp_path: Path) -> None:
    attach(FourierFT(n_frequency=3), seed=5).save(tmp_path, None)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["random_loc_seed"] not in (None, 777)
