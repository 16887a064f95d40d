"""Make the embedded default model: a tiny beacon model with random weights, and its tokenizer.

Untrained: its memory has the right mechanics, sizes and speed, and its words mean nothing. The
same command gives the same files, byte for byte.

    python tools/make_tiny_model.py [--out server/memoserve/assets/tiny] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from memoserve.models.config import ModelConfig, parse_config
from memoserve.models.layers import BeaconLM

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB = 1024
# Qwen2's expression, whose seams the stream encoder knows: texts are encoded as they arrive.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CARD = """# memoserve tiny (untrained)

A beacon memory model of the Qwen2 shape with random weights: 4 layers, width 128, 4 heads,
window 256, ratios 2, 4 and 8. It exists so that everything around a memory model can be run and
tested in seconds on any machine. **It has not been trained: the clues it writes are noise and are
not used for retrieval** (`memoserve_clues_trusted` is false in its config.json). Put a trained
checkpoint in its place with `memoserve serve --model DIRECTORY`.

Made by `tools/make_tiny_model.py`; its tokenizer is a byte-level BPE of 1,024 entries, trained on
the sample corpus. Licence: Apache-2.0.
"""


def config_of() -> dict[str, object]:
    """config.json, with the beacon fields of the published layout."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 100000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "beacon_window": 256,
        "beacon_stride": 256,
        "beacon_ratio": [2, 4, 8],
        "beacon_ratio_mix": "step-random",
        "beacon_pos": "interleave",
        "beacon_attn": "full-coverage",
        "beacon_attend_prev": True,
        "beacon_sink_size": 0,
        "beacon_param": ["q", "k", "v"],
        "beacon_embed_init": "eos",
        "beacon_parallel_window": 1,
        "memoserve_clues_trusted": False,
    }


def random_weights(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Normal weights of fan-in scale, norms at one; bfloat16 to keep the files small."""
    generator = torch.Generator().manual_seed(seed)
    state = BeaconLM(config).state_dict()
    weights = {}
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue  # tied to the embedding
        if name.endswith("norm.weight"):
            weights[name] = torch.ones_like(tensor)
        else:
            fan_in = tensor.shape[-1] if tensor.dim() == 2 else 1
            scale = 0.0 if tensor.dim() == 1 else fan_in**-0.5
            weights[name] = torch.randn(tensor.shape, generator=generator) * scale
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}


def train_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE in which any UTF-8 text encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def write_json(path: Path, content: object) -> None:
    """JSON with a newline at its end."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write the model directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "server/memoserve/assets/tiny")
    parser.add_argument("--text", type=Path, default=ROOT / "benchmarks/corpus/sample.txt")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    config = config_of()
    save_file(random_weights(parse_config(config), arguments.seed), out / "model.safetensors")
    train_tokenizer(arguments.text.read_text(encoding="utf-8")).save(str(out / "tokenizer.json"))
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", {"eos_token_id": 2, "do_sample": False})
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[0],
            "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[0],
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 131072,
        },
    )
    (out / "README.md").write_text(CARD, encoding="utf-8")
    (out / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
