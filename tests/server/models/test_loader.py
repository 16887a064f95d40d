"""Checkpoints as they are published, what is derived, and what is refused."""

from __future__ import annotations

import json
import logging
import weakref
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors import safe_open
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from memoserve.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from memoserve.memory.window import RatioSchedule
from memoserve.models import loader
from memoserve.models.loader import load_model, resolve_directory, usable_device
from tests.server.fixtures import (
    make_driver,
    random_ids,
    random_tensors,
    tiny_config,
    write_checkpoint,
)

SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
BASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen2-tied": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen2-yarn": (Qwen2Config, Qwen2ForCausalLM, {"rope_parameters": YARN}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "mistral-head_dim": (MistralConfig, MistralForCausalLM, {"head_dim": 10}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3}),
    "llama-biases": (
        LlamaConfig,
        LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True, "head_dim": 8, "num_key_value_heads": 1},
    ),
}


def base_model(kind: str) -> PreTrainedModel:
    make_config, make_model, more = BASES[kind]
    torch.manual_seed(3)
    model = make_model(make_config(**SIZES | more))
    assert isinstance(model, PreTrainedModel)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += torch.randn_like(parameter) * 0.3
    model.eval()
    return model


def saved(model: PreTrainedModel, directory: Path, shard_size: str = "5GB") -> Path:
    """As transformers saves it; window and ratio 0 are added, so that windows close."""
    model.save_pretrained(directory, max_shard_size=shard_size)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    beacon = {"beacon_window": 16, "beacon_ratio": [0], "beacon_param": ["q", "k", "v", "o"]}
    path.write_text(json.dumps(config | beacon), encoding="utf-8")
    return directory


@pytest.mark.parametrize("shard_size", ["5GB", "8KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("kind", BASES)
def test_ratio_0_is_the_base_model(kind: str, shard_size: str, tmp_path: Path) -> None:
    base = base_model(kind)
    directory = saved(base, tmp_path, shard_size)
    assert (directory / "model.safetensors.index.json").exists() == (shard_size == "8KB")
    loaded = load_model(str(directory))
    tokens = random_ids(37, seed=1)
    with torch.inference_mode():
        wanted = base(torch.tensor([tokens])).logits[0]
    driver = make_driver(loaded, page_size=3, chunk_tokens=7)
    logits = driver.compress(tokens, None, RatioSchedule((0,))).logits
    torch.testing.assert_close(logits, wanted, atol=2e-4, rtol=2e-4)
    assert loaded.eos_ids == {2}


@pytest.mark.parametrize("kind", ["qwen2", "llama-biases"])
def test_a_base_checkpoint_gets_copies(kind: str, tmp_path: Path) -> None:
    """Beacon projections start as the ordinary ones, biases too; the embedding as eos's row."""
    model = load_model(str(saved(base_model(kind), tmp_path))).model
    state = model.state_dict()
    copies = [name for name in state if ".beacon_" in name and "embed" not in name]
    assert len(copies) >= 2 * 4
    for name in copies:
        original = state[name.replace(".beacon_", ".")]
        assert torch.equal(state[name], original)
        assert state[name].data_ptr() != original.data_ptr()
    embedding = state["model.beacon_embed_tokens.weight"]
    assert torch.equal(embedding, state["model.embed_tokens.weight"][2:3])


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"beacon_embed_init": "bos"}, 1),
        ({"eos_token_id": [5, 2]}, 5),
        ({"eos_token_id": 4}, 4),
    ],
)
def test_the_embedding_starts_as_a_tokens(
    changes: dict[str, Any], row: int, tmp_path: Path
) -> None:
    config = tiny_config(**changes)
    tensors = random_tensors(config)
    del tensors["model.beacon_embed_tokens.weight"]
    loaded = load_model(str(write_checkpoint(tmp_path, config, tensors)))
    embedding = loaded.model.model.beacon_embed_tokens.weight
    assert torch.equal(embedding[0], tensors["model.embed_tokens.weight"][row])


@pytest.mark.parametrize("ids", [None, [], 48, -1, "2"])
def test_without_a_token_to_start_from_it_is_refused(ids: Any, tmp_path: Path) -> None:
    config = tiny_config(eos_token_id=ids)
    tensors = random_tensors(config)
    del tensors["model.beacon_embed_tokens.weight"]
    with pytest.raises(InvalidArgument) as caught:
        load_model(str(write_checkpoint(tmp_path, config, tensors)))
    assert caught.value.field == "eos_token_id"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_types(dtype: str, tmp_path: Path) -> None:
    config = tiny_config(torch_dtype="bfloat16")
    tensors = random_tensors(config, dtype=torch.bfloat16)
    directory = str(write_checkpoint(tmp_path, config, tensors))
    assert load_model(directory).dtype == torch.bfloat16
    loaded = load_model(directory, dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    exact = make_driver(load_model(directory, dtype="float64"))
    tokens = random_ids(21, seed=2)
    wanted = exact.compress(tokens).logits
    found = make_driver(loaded).compress(tokens).logits
    assert found.dtype == getattr(torch, dtype)
    error = ((found.double() - wanted).norm() / wanted.norm()).item()
    assert error < {"bfloat16": 0.05, "float32": 1e-5, "float64": 1e-12}[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_on_a_gpu_weights_are_bfloat16_unless_asked_for(
    dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The meta device stands for a GPU: it has a place, and no values."""
    meta = torch.device("meta")
    config = tiny_config(torch_dtype=dtype)
    tensors = random_tensors(config, dtype=getattr(torch, dtype))
    directory = str(write_checkpoint(tmp_path, config, tensors, shards=2))
    with caplog.at_level(logging.INFO):
        model = load_model(directory, device=meta)
    parameters = list(model.model.parameters())
    assert {(p.dtype, p.device) for p in parameters} == {(torch.bfloat16, meta)}
    assert (f"the checkpoint's are {dtype}" in caplog.text) == (dtype != "bfloat16")
    asked = load_model(directory, device=meta, dtype="float32")
    assert asked.dtype == torch.float32
    assert asked.fingerprint != model.fingerprint


def test_weights_go_over_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second copy of them on the host: nothing is read before its predecessor is over."""
    config = tiny_config()
    tensors = random_tensors(config)
    directory = write_checkpoint(tmp_path, config, tensors, shards=3)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = [0]
    opened: Any = safe_open

    class Watched:
        def __init__(self, *arguments: Any, **more: Any) -> None:
            self.file: Any = opened(*arguments, **more)

        def __enter__(self) -> Watched:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            tensor: torch.Tensor = self.file.get_tensor(name)
            alive.add(tensor)
            most[0] = max(most[0], len(alive))
            return tensor

    monkeypatch.setattr(loader, "safe_open", Watched)
    load_model(str(directory), device=torch.device("meta"))
    assert most == [1] and len(tensors) > 10


def test_weights_that_do_not_fit_are_told_with_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    tensors = random_tensors(config)
    directory = str(write_checkpoint(tmp_path, config, tensors, shards=2))

    def lacks(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loader, "_read_tensors", lacks)
    with pytest.raises(ResourceExhausted) as caught:
        load_model(directory, dtype="bfloat16")
    size = 2 * sum(tensor.numel() for tensor in tensors.values())
    assert caught.value.reason == "DEVICE_TOO_SMALL"
    assert caught.value.metadata == {"bytes_needed": str(size)}
    assert f"{size} bytes in bfloat16" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count", "capability", "said"),
    [
        ("cuda", 0, (9, 0), "finds 0 CUDA devices"),
        ("cuda:2", 2, (9, 0), "finds 2 CUDA devices"),
        ("cuda", 1, (7, 5), "capability 8.0 or later is needed, 7.5 found"),
    ],
)
def test_a_device_that_cannot_be_used_is_refused(
    name: str,
    count: int,
    capability: tuple[int, int],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(FailedPrecondition, match=said) as caught:
        usable_device(name)
    assert (caught.value.subject, caught.value.reason) == ("device", "NO_SUCH_DEVICE")


def test_devices_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    for name in ("cpu", "cuda", "cuda:1"):
        assert usable_device(name) == torch.device(name)


def test_tied_models_share_the_head(tmp_path: Path) -> None:
    config = tiny_config(tie_word_embeddings=True)
    tensors = random_tensors(config)
    assert "lm_head.weight" not in tensors
    # A checkpoint may carry the head all the same, and old rotary buffers.
    more = {
        "lm_head.weight": tensors["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
    }
    model = load_model(str(write_checkpoint(tmp_path, config, tensors | more))).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_fingerprint_names_weights_config_and_type(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = random_tensors(config)

    def fingerprint(name: str, dtype: str | None = None, **changes: Any) -> str:
        written = write_checkpoint(tmp_path / name, config | changes, tensors)
        return load_model(str(written), dtype=dtype).fingerprint

    first = fingerprint("a")
    assert fingerprint("b") == first
    assert fingerprint("c", dtype="bfloat16") != first
    assert fingerprint("d", rope_theta=5e5) != first
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    assert fingerprint("e") != first


def test_generation_config_and_card(tmp_path: Path) -> None:
    config = tiny_config()
    directory = write_checkpoint(tmp_path, config, random_tensors(config))
    plain = load_model(str(directory))
    assert not plain.generation and not plain.card
    assert plain.eos_ids == {2}
    stated = {"eos_token_id": [2, 7], "repetition_penalty": 1.05}
    (directory / "generation_config.json").write_text(json.dumps(stated), encoding="utf-8")
    (directory / "README.md").write_text("an untrained model", encoding="utf-8")
    loaded = load_model(str(directory))
    assert loaded.generation["repetition_penalty"] == 1.05
    assert loaded.eos_ids == {2, 7}
    assert loaded.card == "an untrained model"
    (directory / "generation_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InvalidArgument, match="not a JSON object"):
        load_model(str(directory))


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    config = tiny_config()
    good = random_tensors(config)
    name = "model.layers.1.mlp.up_proj.weight"

    def refused(which: str, tensors: dict[str, torch.Tensor]) -> str:
        with pytest.raises(InvalidArgument) as caught:
            load_model(str(write_checkpoint(tmp_path / which, config, tensors)))
        assert caught.value.field == "model"
        return str(caught.value)

    missing = {k: t for k, t in good.items() if k != name}
    assert f"{name} is missing" in refused("missing", missing)
    assert "unknown tensors: extra" in refused("extra", good | {"extra": torch.ones(1)})
    shape = refused("shape", good | {name: torch.ones(3, 2)})
    assert name in shape and "(3, 2)" in shape and "(24, 16)" in shape


def test_files_that_do_not_load_are_refused(tmp_path: Path) -> None:
    config = tiny_config()
    directory = write_checkpoint(tmp_path / "m", config, random_tensors(config), shards=2)
    with pytest.raises(InvalidArgument) as caught:
        load_model(str(directory), dtype="int8")
    assert caught.value.field == "dtype"
    shard = directory / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidArgument, match=r"model-00002-of-00002\.safetensors is damaged"):
        load_model(str(directory))
    shard.unlink()
    with pytest.raises(InvalidArgument, match=r"lacks model-00002-of-00002\.safetensors"):
        load_model(str(directory))
    index = directory / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../m/model.safetensors"}}', encoding="utf-8")
    with pytest.raises(InvalidArgument, match="outside its directory"):
        load_model(str(directory))
    index.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InvalidArgument, match="safetensors only"):
        load_model(str(directory))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./missing", "../x", "a/b/c", "word"])
def test_a_path_that_is_not_there_asks_no_hub(name: str) -> None:
    with pytest.raises(InvalidArgument, match="not a directory"):
        resolve_directory(name)


def test_a_hub_name_without_a_network_is_a_clear_error() -> None:
    with pytest.raises(InvalidArgument, match="could not be fetched") as caught:
        resolve_directory("nobody/no-such-model")
    assert caught.value.field == "model"
