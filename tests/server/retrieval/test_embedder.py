from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from memoserve.errors import FailedPrecondition, InvalidArgument, Unavailable
from memoserve.retrieval.embedder import (
    EmbedderOptions,
    TransformerEmbedder,
    Vectors,
    batches_by_length,
)
from memoserve.retrieval.encoder_layout import read_tokenizer

TEXTS = ["the ship", "", "the ships of the bay are old", "a " * 90, "x", "the ship"]
MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
CLS = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}


def expected(path: Path, texts: list[str], *, cls: bool, max_tokens: int) -> Vectors:
    """One text at a time by transformers itself, without padding."""
    from transformers import BertModel

    model = BertModel.from_pretrained(path).eval()
    tokenizer = read_tokenizer(path, max_tokens=max_tokens)
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text).ids])
            hidden = model(input_ids=ids).last_hidden_state[0]
            pooled = hidden[0] if cls else hidden.mean(dim=0)
            rows.append((pooled / pooled.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_tokens", [1, 30, 512])
@pytest.mark.parametrize("cls", [False, True], ids=["mean", "cls"])
def test_batched_equals_one_text_alone(
    make_encoder: Callable[..., Path], cls: bool, batch_tokens: int
) -> None:
    path = make_encoder(**{"1_Pooling__config": CLS if cls else MEAN})
    embedder = TransformerEmbedder(path, options=EmbedderOptions(batch_tokens=batch_tokens))
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(path, TEXTS, cls=cls, max_tokens=40), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), vectors, atol=1e-6)
    embedder.close()


def test_texts_are_cut_at_the_limit_with_their_closing_token(
    make_encoder: Callable[..., Path],
) -> None:
    path = make_encoder(sentence_bert_config={"max_seq_length": 30})
    embedder = TransformerEmbedder(path, options=EmbedderOptions(max_tokens=10))
    assert (embedder.max_tokens, embedder.count_tokens("a " * 90)) == (10, 92)
    want = expected(path, ["a " * 90], cls=False, max_tokens=10)
    np.testing.assert_allclose(embedder.embed_documents(["a " * 90]), want, atol=2e-6)
    longer = TransformerEmbedder(path, options=EmbedderOptions(max_tokens=99))
    assert longer.max_tokens == 30  # never beyond what the directory says
    assert longer.fingerprint != embedder.fingerprint


def test_special_token_strings_are_ordinary_text(make_encoder: Callable[..., Path]) -> None:
    embedder = TransformerEmbedder(make_encoder())
    assert embedder.count_tokens("[SEP]") == 2 + len("[sep]")
    plain, special = embedder.embed_documents(["a b", "a [SEP] b"])
    assert float(plain @ special) < 0.9999


def test_prompts_of_the_directory_are_put_before_the_text(
    make_encoder: Callable[..., Path],
) -> None:
    plain = TransformerEmbedder(make_encoder("plain"))
    prompts = {"prompts": {"query": "q: ", "document": "doc: "}}
    prompted = TransformerEmbedder(make_encoder("prompted", config_sentence_transformers=prompts))
    np.testing.assert_allclose(
        prompted.embed_queries(["ship"]), plain.embed_queries(["q: ship"]), atol=1e-6
    )
    np.testing.assert_allclose(
        prompted.embed_documents(["ship"]), plain.embed_documents(["doc: ship"]), atol=1e-6
    )
    assert prompted.count_tokens("ship") == plain.count_tokens("doc: ship")
    assert prompted.fingerprint != plain.fingerprint


def test_bf16_autocast_stays_close(make_encoder: Callable[..., Path]) -> None:
    path = make_encoder()
    exact = TransformerEmbedder(path).embed_documents(TEXTS)
    fast = TransformerEmbedder(path, options=EmbedderOptions(bf16_autocast=True))
    vectors = fast.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert not np.array_equal(vectors, exact)
    assert (vectors * exact).sum(axis=1).min() > 0.999


def test_no_texts_give_no_rows(make_encoder: Callable[..., Path]) -> None:
    embedder = TransformerEmbedder(make_encoder())
    assert embedder.embed_documents([]).shape == (0, embedder.dimension)


def test_a_closed_embedder_says_so(make_encoder: Callable[..., Path]) -> None:
    embedder = TransformerEmbedder(make_encoder())
    embedder.close()
    with pytest.raises(Unavailable):
        embedder.embed_queries(["x"])


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = [5, 300, 7, 7, 200, 1, 64, 64, 64]
    batches = batches_by_length(lengths, 256)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= 256
    assert batches == [[1], [4], [6, 7, 8, 2], [3, 0, 5]]  # alike in length, longest first


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(make_encoder: Callable[..., Path], file: str) -> None:
    path = make_encoder()
    (path / file).unlink()
    with pytest.raises(FailedPrecondition, match=file.replace(".", r"\.")):
        TransformerEmbedder(path)


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
)
def test_a_damaged_file_is_refused(make_encoder: Callable[..., Path], file: str) -> None:
    path = make_encoder(**{"1_Pooling__config": MEAN})
    (path / file).write_bytes(b'{"half": ')
    with pytest.raises(FailedPrecondition):
        TransformerEmbedder(path)


def test_a_missing_weight_is_not_drawn_at_random(make_encoder: Callable[..., Path]) -> None:
    path = make_encoder()
    weights = load_file(path / "model.safetensors")
    lost = next(name for name in weights if "attention" in name)
    del weights[lost]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FailedPrecondition, match="no weights"):
        TransformerEmbedder(path)


def test_other_poolings_are_refused(make_encoder: Callable[..., Path]) -> None:
    path = make_encoder(**{"1_Pooling__config": {"pooling_mode_max_tokens": True}})
    with pytest.raises(FailedPrecondition, match="pooling_mode_max_tokens"):
        TransformerEmbedder(path)


def test_code_in_the_directory_is_not_run(make_encoder: Callable[..., Path]) -> None:
    path = make_encoder()
    mark = path / "ran"
    (path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    config = (path / "config.json").read_text(encoding="utf-8")
    hooked = config.replace("{", '{"auto_map": {"AutoModel": "evil.Evil"},', 1)
    (path / "config.json").write_text(hooked, encoding="utf-8")
    with contextlib.suppress(FailedPrecondition):
        TransformerEmbedder(path).close()
    assert not mark.exists()


def test_options_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="max_tokens"):
        EmbedderOptions(max_tokens=7)
    with pytest.raises(InvalidArgument, match="batch_tokens"):
        EmbedderOptions(batch_tokens=0)
