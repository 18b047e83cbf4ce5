"""Tests of the outputs of a graph that are computed only where they are wanted."""

from __future__ import annotations

from pathlib import Path

import checkers
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kwsd.ort import onnxruntime
from kwsd.training.stages.checker.branches import defer

OUTPUTS = ("logits", "voice", "words")
VOICES = np.arange(12, dtype=np.float32).reshape(4, 3)


def written(path: Path) -> Path:
    """Write a graph whose voice is the row of `VOICES` that is asked for; the words are double the
    logits."""

    def value(name: str, axes: list[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

    nodes = [
        helper.make_node("Abs", ["row"], ["logits"]),
        helper.make_node("Cast", ["logits"], ["index"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["index", "last"], ["flat"]),
        helper.make_node("Gather", ["voices", "flat"], ["voice"]),
        helper.make_node("Add", ["logits", "logits"], ["words"]),
    ]
    constants = [
        numpy_helper.from_array(VOICES, "voices"),
        numpy_helper.from_array(np.array([1]), "last"),
    ]
    outputs = [value("logits", ["n", 1]), value("voice", ["n", 3]), value("words", ["n", 1])]
    graph = helper.make_graph(nodes, "test", [value("row", ["n", 1])], outputs, constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_what_is_not_wanted_is_not_computed(tmp_path: Path) -> None:
    path = written(tmp_path / "graph.onnx")
    rows = np.array([[-2.0], [1.0]], np.float32)
    before = onnxruntime.InferenceSession(path).run(OUTPUTS, {"row": rows})
    defer(path, ["voice", "words"])
    session = onnxruntime.InferenceSession(path)
    for got, expected in zip(checkers.run(session, rows, *OUTPUTS), before, strict=True):
        assert np.array_equal(got, expected)
    no_such_row = np.full((1, 1), 9, np.float32)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        checkers.run(session, no_such_row, *OUTPUTS)
    logits, words = checkers.run(session, no_such_row, "logits", "words")
    assert logits.tolist() == [[9]]
    assert words.tolist() == [[18]]
    flags = {name: np.array(False) for name in ("voice_wanted", "words_wanted")}
    _, voice, words = session.run(OUTPUTS, {"row": no_such_row, **flags})
    assert voice.shape == (0, 3)
    assert words.shape == (0, 1)
    assert [i.name for i in onnx.load(path).graph.initializer] == [], "they went with the voice"
