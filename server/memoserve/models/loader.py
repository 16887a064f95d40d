"""A memory model from a Hugging Face directory: config.json and safetensors, nothing that runs.

Published parameter names are the module's own, so loading is a dictionary of tensors. Beacon
tensors that a plain base checkpoint lacks are copied from what they specialise.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from memoserve.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from memoserve.models.config import ModelConfig, read_config
from memoserve.models.layers import BeaconLM
from memoserve.models.rope import Rope, read_rope

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# bfloat16 in tensor cores, asynchronous copies: what the kernels are compiled for.
OLDEST_CAPABILITY = (8, 0)
FP8_CAPABILITY = (8, 9)
BEACON_EMBED = "model.beacon_embed_tokens.weight"
TOKEN_EMBED = "model.embed_tokens.weight"
HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.md", "LICENSE*")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A memory model ready to run. ``fingerprint`` names config, weights and dtype."""

    name: str
    model: BeaconLM
    rope: Rope
    fingerprint: str
    generation: Mapping[str, Any]
    eos_ids: frozenset[int]
    card: str

    @property
    def config(self) -> ModelConfig:
        """Shape and beacon settings."""
        return self.model.config

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights, keys and values."""
        return self.model.lm_head.weight.dtype


def resolve_directory(model: str) -> Path:
    """A local directory as it is; otherwise a Hub name, fetched where there is a network."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.count("/") != 1 or model.startswith("."):
        raise InvalidArgument("model", f"{model} is not a directory")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:
        raise InvalidArgument(
            "model", f"{model} is no directory here and could not be fetched: {error}"
        ) from error


def usable_device(name: str, oldest: tuple[int, int] = OLDEST_CAPABILITY) -> torch.device:
    """The device called ``cpu`` or ``cuda[:N]``.

    Raises FailedPrecondition where PyTorch finds none, or one older than compute capability
    ``oldest``.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        lacking = f"PyTorch {torch.__version__} finds {count} CUDA devices"
        raise FailedPrecondition("device", f"device: {name}: {lacking}", reason="NO_SUCH_DEVICE")
    capability = torch.cuda.get_device_capability(device)
    if capability < oldest:
        wanted = f"capability {'.'.join(map(str, oldest))} or later is needed"
        found = f"{'.'.join(map(str, capability))} found"
        raise FailedPrecondition(
            "device", f"device: {name}: {wanted}, {found}", reason="NO_SUCH_DEVICE"
        )
    return device


def load_model(
    model: str, *, dtype: str | None = None, device: torch.device | None = None
) -> LoadedModel:
    """Load ``model`` (directory or Hub name) in ``dtype``, tensor by tensor to ``device``.

    None takes the checkpoint's own; float16, which is served nowhere, becomes float32. On a device
    that is no CPU None is bfloat16, whatever the checkpoint's. Raises ResourceExhausted with the
    numbers where the weights do not fit.
    """
    directory, device = resolve_directory(model), device or torch.device("cpu")
    config = read_config(directory)
    wanted = dtype or _own_dtype(config, device)
    if wanted not in DTYPES:
        raise InvalidArgument("dtype", f"{wanted!r}; known: {', '.join(DTYPES)}")
    try:
        tensors = dict(_read_tensors(directory, DTYPES[wanted], device))
    except torch.OutOfMemoryError as error:
        raise _too_large(directory, wanted, device) from error
    generation = _read_json(directory / "generation_config.json")
    card = directory / "README.md"
    return LoadedModel(
        name=model if model.count("/") == 1 else directory.name,
        model=build_model(config, tensors),
        rope=read_rope(config.raw, config.head_dim, config.max_positions),
        fingerprint=_fingerprint(directory, wanted),
        generation=generation,
        eos_ids=_ids(generation.get("eos_token_id", config.raw.get("eos_token_id"))),
        card=card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "",
    )


def _own_dtype(config: ModelConfig, device: torch.device) -> str:
    if device.type != "cpu":
        if config.dtype != "bfloat16":
            log.info("weights in bfloat16 on %s, the checkpoint's are %s", device, config.dtype)
        return "bfloat16"
    return "float32" if config.dtype == "float16" else config.dtype


def build_model(config: ModelConfig, tensors: Mapping[str, Tensor]) -> BeaconLM:
    """A model from its tensors by published names; missing beacon tensors are derived.

    Raises InvalidArgument for a tensor that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = BeaconLM(config)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    state = {name: tensor for name, tensor in tensors.items() if not _is_buffer(name)}
    if config.tied:
        state.pop("lm_head.weight", None)
    for name in wanted:
        if name not in state:
            state[name] = _derive(name, state, config)
    unknown = sorted(set(state) - set(wanted))
    if unknown:
        raise InvalidArgument("model", f"unknown tensors: {', '.join(unknown[:5])}")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise InvalidArgument(
                "model", f"{name} has shape {tuple(state[name].shape)}, not {tuple(shape)}"
            )
    model.load_state_dict(state, assign=True, strict=False)
    if config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.requires_grad_(False).eval()


def _is_buffer(name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")


def _derive(name: str, state: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    """A beacon tensor of a base checkpoint: the projection's copy, or the eos / bos embedding."""
    if name == BEACON_EMBED and TOKEN_EMBED in state:
        key = f"{config.beacon.embed_init}_token_id"
        ids = config.raw.get(key)
        first = ids[0] if isinstance(ids, list) and ids else ids
        if not isinstance(first, int) or not 0 <= first < config.vocab_size:
            raise InvalidArgument(key, f"needed to make the beacon embedding, found {ids!r}")
        return state[TOKEN_EMBED][first : first + 1].clone()
    base = name.replace(".beacon_", ".")
    if base == name or base not in state:
        raise InvalidArgument("model", f"tensor {name} is missing")
    return state[base].clone()


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors of a directory, by its index where it is sharded."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise InvalidArgument("model", f"{index} names files outside its directory")
        files = [directory / name for name in names]
    else:
        files = [directory / "model.safetensors"]
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise InvalidArgument(
            "model", f"{directory} lacks {', '.join(missing) or 'weights'} (safetensors only)"
        )
    return files


def _read_tensors(
    directory: Path, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    for path in _weight_files(directory):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (not a mapping)
                    # A view of the file's pages: no second copy of the weights on the host. Over
                    # first, then cast, which a GPU does faster.
                    yield name, file.get_tensor(name).to(device).to(dtype)
        except SafetensorError as error:
            raise InvalidArgument("model", f"{path.name} is damaged: {error}") from error


def _too_large(directory: Path, dtype: str, device: torch.device) -> ResourceExhausted:
    needed = sum(_num_values(path) for path in _weight_files(directory)) * DTYPES[dtype].itemsize
    return ResourceExhausted(
        f"the weights take {needed} bytes in {dtype}, more than {device} has free",
        reason="DEVICE_TOO_SMALL",
        bytes_needed=needed,
    )


def _num_values(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument("model", f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidArgument("model", f"{path.name} is not a JSON object")
    return content


def _ids(value: object) -> frozenset[int]:
    if isinstance(value, int):
        return frozenset([value])
    return frozenset(value) if isinstance(value, list) else frozenset()


def _fingerprint(directory: Path, dtype: str) -> str:
    """sha256 over config, weights and dtype: what must agree for stored K and V to be usable."""
    digest = hashlib.sha256(dtype.encode())
    for path in [directory / "config.json", *_weight_files(directory)]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
