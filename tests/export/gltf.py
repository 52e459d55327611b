"""A strict reading of a GLB against the glTF 2.0 specification, as far as files with one mesh need it."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
FILTERS, MIPMAP_FILTERS, WRAPPINGS = {9728, 9729}, {9728, 9729, 9984, 9985, 9986, 9987}, {33071, 33648, 10497}


def read_glb(path: Path) -> tuple[dict, bytes]:
    """The JSON document and the binary chunk; section 4.4 of the specification is checked."""
    content = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", content)
    assert (magic, version, total) == (b"glTF", 2, len(content))
    length, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON" and length % 4 == 0
    text = content[20 : 20 + length]
    assert text.rstrip(b" ")[-1:] == b"}", "JSON is padded with spaces"
    size, kind = struct.unpack_from("<I4s", content, 20 + length)
    assert kind == b"BIN\0" and size % 4 == 0 and 28 + length + size == len(content)
    return json.loads(text), content[28 + length :]


def accessor(document: dict, data: bytes, number: int) -> np.ndarray:
    """The values of an accessor; normalised integers as they are."""
    entry = document["accessors"][number]
    view = document["bufferViews"][entry["bufferView"]]
    width, kind = WIDTHS[entry["type"]], np.dtype(COMPONENTS[entry["componentType"]])
    start = view["byteOffset"] + entry["byteOffset"]
    assert start % kind.itemsize == 0, "3.6.2.4: aligned to the component's size"
    assert entry["byteOffset"] + entry["count"] * width * kind.itemsize <= view["byteLength"], "inside its view"
    values = np.frombuffer(data, kind, entry["count"] * width, start).reshape(entry["count"], width)
    if "min" in entry:
        assert np.array_equal(values.min(axis=0), np.array(entry["min"], kind)), "3.6.2.5: exact bounds"
        assert np.array_equal(values.max(axis=0), np.array(entry["max"], kind))
    return values


def check(path: Path) -> tuple[dict, bytes]:
    """Everything in the file is as the specification has it, and everything refers to something that is there."""
    document, data = read_glb(path)
    assert document["asset"]["version"] == "2.0"
    (buffer,) = document["buffers"]
    assert "uri" not in buffer and 0 <= len(data) - buffer["byteLength"] <= 3, "4.4.3.3: at most 3 bytes of padding"
    ends = 0
    for view in document["bufferViews"]:
        assert view["buffer"] == 0 and view["byteLength"] > 0
        assert view["byteOffset"] >= ends and view["byteOffset"] % 4 == 0, "views neither overlap nor start odd"
        ends = view["byteOffset"] + view["byteLength"]
        assert view.get("target") in (None, ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER)
    assert ends <= buffer["byteLength"]
    used = set(document.get("extensionsUsed", []))
    assert used or "extensionsUsed" not in document, "schema: at least one"
    (node,) = document["nodes"]
    matrix = np.reshape(node["matrix"], (4, 4)).T
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3)) and np.isclose(np.linalg.det(matrix), 1)
    assert document["scenes"][document["scene"]]["nodes"] == [0] and node["mesh"] == 0
    (mesh,) = document["meshes"]
    for primitive in mesh["primitives"]:
        _check_primitive(document, data, primitive)
        material = document["materials"][primitive["material"]]
        assert used >= set(material.get("extensions", {}))
        textured = material["pbrMetallicRoughness"].get("baseColorTexture")
        if textured is not None:
            assert "TEXCOORD_0" in primitive["attributes"], "3.9.3: texCoord 0 is there"
            _check_texture(document, data, textured["index"])
    return document, data


def _check_primitive(document: dict, data: bytes, primitive: dict) -> None:
    attributes = {name: accessor(document, data, number) for name, number in primitive["attributes"].items()}
    count = len(attributes["POSITION"])
    assert {"min", "max"} <= document["accessors"][primitive["attributes"]["POSITION"]].keys(), "3.7.2.1"
    kinds = {"POSITION": {5126}, "NORMAL": {5126}, "TEXCOORD_0": {5126, 5121, 5123}, "COLOR_0": {5126, 5121, 5123}}
    for name, number in primitive["attributes"].items():
        entry = document["accessors"][number]
        assert entry["componentType"] in kinds[name] and len(attributes[name]) == count
        assert entry.get("normalized", False) == (entry["componentType"] != 5126)
        assert document["bufferViews"][entry["bufferView"]]["target"] == ARRAY_BUFFER
    assert np.allclose(np.linalg.norm(attributes["NORMAL"], axis=1), 1, atol=1e-5)
    entry = document["accessors"][primitive["indices"]]
    assert document["bufferViews"][entry["bufferView"]]["target"] == ELEMENT_ARRAY_BUFFER
    assert entry["type"] == "SCALAR" and entry["componentType"] in (5121, 5123, 5125)
    indices = accessor(document, data, primitive["indices"])
    assert len(indices) % 3 == 0 and indices.max() < count, "triangles, and no index past the end"
    assert indices.max() < 2**32 - 1, "3.7.2.1: the largest value restarts primitives"


def _check_texture(document: dict, data: bytes, number: int) -> None:
    entry = document["textures"][number]
    sampler, image = document["samplers"][entry["sampler"]], document["images"][entry["source"]]
    assert sampler["magFilter"] in FILTERS and sampler["minFilter"] in MIPMAP_FILTERS
    assert {sampler["wrapS"], sampler["wrapT"]} <= WRAPPINGS
    assert "uri" not in image and image["mimeType"] == "image/png"
    view = document["bufferViews"][image["bufferView"]]
    assert "target" not in view, "3.6.1: targets are for vertices and indices"
    picture = Image.open(io.BytesIO(data[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))
    picture.load()
    assert picture.format == "PNG"
