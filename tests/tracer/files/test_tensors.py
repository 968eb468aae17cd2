"""Tensors in files: what was written comes back, the same content is the same file, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file

from tracer.errors import CannotWrite, NotASavedResult
from tracer.files.tensors import digest_of, read, write

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2, 3])}
HEADER = {"tokens": 5, "text": "é"}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "x", "Thing/1", TENSORS, HEADER)
    assert path.name == "x.safetensors"
    tensors, header = read(tmp_path / "x", "Thing/1")
    assert equal(tensors, TENSORS) and header == HEADER
    assert path.read_bytes() == write(tmp_path / "y", "Thing/1", TENSORS, HEADER).read_bytes()
    assert read(path, "Thing/1", names=["b", "c"])[0].keys() == {"b"}


def former_edit(path: Path) -> None:
    text = json.dumps(HEADER)
    save_file(TENSORS, path, metadata={"format": "Thing/1", "header": text, "blake3": digest_of(TENSORS, text)})


def former_covariance(path: Path) -> None:
    def check(tensor: torch.Tensor) -> str:
        raw: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        return f"{tensor.dtype}{list(tensor.shape)}:{blake3(raw).hexdigest()}"

    checks = {name: check(tensor) for name, tensor in TENSORS.items()}
    save_file(TENSORS, path, metadata={"header": json.dumps({"format": "Thing/1", **HEADER, "checks": checks})})


def present(path: Path) -> None:
    write(path, "Thing/1", TENSORS, HEADER)


@pytest.mark.parametrize("layout", [present, former_edit, former_covariance])
def test_layouts_of_before_are_read_and_damage_is_noticed_in_each(layout: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    layout(path)
    tensors, header = read(path, "Other/2", "Thing/1")
    assert equal(tensors, TENSORS) and header == HEADER
    with pytest.raises(NotASavedResult, match="it holds 'Thing/1', expected 'Other/2'"):
        read(path, "Other/2")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a bit of the last tensor
    load_file(path)  # a whole safetensors file
    with pytest.raises(NotASavedResult, match="damaged"):
        read(path, "Thing/1")
    path.write_bytes(content[:-1])
    with pytest.raises(NotASavedResult, match="not a saved Thing"):
        read(path, "Thing/1")


def test_a_changed_header_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x", "Thing/1", TENSORS, HEADER)
    path.write_bytes(path.read_bytes().replace(b"tokens", b"Tokens"))
    with pytest.raises(NotASavedResult, match="its header is damaged"):
        read(path, "Thing/1")


def test_other_files_and_headers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotASavedResult, match="no file"):
        read(tmp_path / "none", "Thing/1")
    save_file(TENSORS, tmp_path / "plain.safetensors")
    with pytest.raises(NotASavedResult, match="it holds 'plain tensors'"):
        read(tmp_path / "plain", "Thing/1")
    with pytest.raises(CannotWrite, match="as json"):
        write(tmp_path / "x", "Thing/1", TENSORS, {"a": {1}})
    with pytest.raises(CannotWrite, match="cannot write to"):
        write(tmp_path / "no" / "x", "Thing/1", TENSORS, HEADER)
    assert [file.name for file in tmp_path.iterdir()] == ["plain.safetensors"]
