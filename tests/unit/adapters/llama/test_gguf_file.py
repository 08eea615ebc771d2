from __future__ import annotations

import struct

import pytest

from evalkit.adapters.llama.gguf_file import read_header, split_parts
from evalkit.errors import UsageError

_KINDS = {int: 4, float: 6, bool: 7, str: 8}
_CODES = {4: "<I", 6: "<f", 7: "<?"}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(value) -> bytes:
    kind = _KINDS[type(value)]
    return text(value) if kind == 8 else struct.pack(_CODES[kind], value)


def pair(name: str, value) -> bytes:
    if isinstance(value, list):
        inner = _KINDS[type(value[0])]
        body = struct.pack("<IQ", inner, len(value)) + b"".join(map(scalar, value))
        return text(name) + struct.pack("<I", 9) + body
    return text(name) + struct.pack("<I", _KINDS[type(value)]) + scalar(value)


def write(path, metadata, tensors=(("a", 3), ("b", 3), ("c", 0)), version=3, magic=b"GGUF"):
    """Write a header and no weights."""
    data = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    data += b"".join(pair(name, value) for name, value in metadata.items())
    for name, kind in tensors:
        data += text(name) + struct.pack("<I", 2) + struct.pack("<QQ", 32, 32) + struct.pack("<IQ", kind, 0)
    path.write_bytes(data)
    return path


METADATA = {
    "general.architecture": "llama",
    "general.file_type": 3,
    "llama.context_length": 512,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "é", "Ġ東"],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.0],
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
}


def test_a_header_is_read_without_the_weights(tmp_path):
    header = read_header(write(tmp_path / "m.gguf", METADATA))
    assert header.metadata == METADATA
    assert header.tensors == {"F32": 1, "Q4_1": 2}
    assert (header.quantization, header.dtype, header.trained_length) == ("Q4_1", "float32", 512)


def test_a_file_that_does_not_name_its_type_is_named_after_its_tensors(tmp_path):
    silent = {name: value for name, value in METADATA.items() if name != "general.file_type"}
    tensors = [("a", 12), ("b", 12), ("c", 14), *((f"n{n}", 0) for n in range(5)), ("d", 99)]
    header = read_header(write(tmp_path / "m.gguf", silent, tensors))
    assert header.quantization == "Q4_K"
    assert header.tensors == {"F32": 5, "Q4_K": 2, "Q6_K": 1, "type 99": 1}
    plain = read_header(write(tmp_path / "p.gguf", silent, [("a", 30), ("b", 30), ("c", 0)]))
    assert (plain.quantization, plain.dtype) == ("BF16", "bfloat16")


def test_digests_follow_what_they_are_of(tmp_path):
    first = read_header(write(tmp_path / "1.gguf", METADATA))
    other = read_header(write(tmp_path / "2.gguf", {**METADATA, "tokenizer.ggml.tokens": ["<s>", "é", "Ġ京"]}))
    spoken = read_header(write(tmp_path / "3.gguf", {**METADATA, "tokenizer.chat_template": "{{ other }}"}))
    mute = read_header(write(tmp_path / "4.gguf", {k: v for k, v in METADATA.items() if "chat" not in k}))
    assert first.tokenizer_sha256 != other.tokenizer_sha256
    assert first.tokenizer_sha256 == spoken.tokenizer_sha256 == mute.tokenizer_sha256
    assert first.chat_template_sha256 not in (spoken.chat_template_sha256, None)
    assert mute.chat_template_sha256 is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"NOPE" + data[4:], "not a GGUF file"),
        (lambda data: b"", "not a GGUF file"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "GGUF version 9"),
        (lambda data: data[:40], "the header is damaged"),
        (lambda data: data[:-5], "the header is damaged"),
        (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], "the header is damaged"),
        (lambda data: data.replace(struct.pack("<I", 9), struct.pack("<I", 77), 1), "the header is damaged"),
    ],
)
def test_damage_is_named_with_the_file(tmp_path, change, words):
    path = write(tmp_path / "m.gguf", METADATA)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=f"m.gguf.*{words}"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone.gguf: cannot be read"):
        read_header(tmp_path / "gone.gguf")


def test_the_parts_of_a_split_model_belong_together(tmp_path):
    paths = [write(tmp_path / f"m-0000{n}-of-00003.gguf", METADATA, [(f"t{n}", 3)]) for n in (1, 2, 3)]
    assert split_parts(paths[0]) == paths
    assert split_parts(tmp_path / "whole.gguf") == [tmp_path / "whole.gguf"]
    headers = [read_header(path) for path in paths]
    assert headers[0].joined(headers[1:]).tensors == {"Q4_1": 3}
    with pytest.raises(UsageError, match="part 2 of 3; next step: name part 1"):
        split_parts(paths[1])
    paths[2].unlink()
    with pytest.raises(UsageError, match=r"1 of 3 parts are missing, first m-00003-of-00003.gguf"):
        split_parts(paths[0])
