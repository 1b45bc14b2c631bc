"""Exported files: the same numbers under onnxruntime and torch.export; layers/test_norms.py has every norm."""

import json

import onnx
import pytest
import torch

from ssdnorm import BoxCoder, Detector, PostProcess, ssd300_vgg16
from ssdnorm.models.export import ExportedNetwork, FixedPostProcess, export_onnx, export_torch, nms_mask
from ssdnorm.models.metadata import read_export_metadata
from ssdnorm.models.onnx_detector import OnnxDetector
from ssdnorm.structures import SSDOutput

SIZES = torch.tensor([[100, 200], [300, 300], [480, 640]])


def small_detector(norm="none", **settings):
    """A small detector whose scores spread, and whose statistics are not the initial ones."""
    model = ssd300_vgg16(4, width=0.02, backbone_norm=norm)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("running_mean", "norm.bias", "conv.bias")):
                tensor.uniform_(-0.1, 0.1)
        maps = model.eval().features(model.normalize(torch.rand(1, 3, 300, 300)))
        for heads, spread in ((model.head.logits, 2.0), (model.head.locs, 0.7)):
            for tap_name, conv in heads.items():
                conv.weight.mul_(spread / conv(maps[tap_name]).std().clamp(min=1e-3))
                conv.bias.uniform_(-1, 1)
    post_process = PostProcess(model.default_boxes, **settings)
    return Detector(model, None, post_process, class_names=["cat", "dog", "owl"]).eval()


def exported_network(detector, **options):
    return ExportedNetwork(detector.model, detector.post_process, class_names=detector.class_names, **options)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_detections(got, detector, images, sizes):
    want = detector.post_process(detector.model(images), sizes)
    assert len(got) == len(want) == len(images)
    for ours, theirs in zip(got, want, strict=True):
        assert len(theirs["scores"]) > 5
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["scores"], theirs["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], atol=0.05, rtol=0)


@pytest.fixture(scope="module", params=["uint8", pytest.param("float32", marks=pytest.mark.slow)])
def with_nms(request, tmp_path_factory):
    settings = {"score_threshold": 0.3, "nms_threshold": 0.4, "top_k": 60, "max_detections": 40}
    detector = small_detector("batch_norm", **settings)
    path = tmp_path_factory.mktemp("export") / "m.onnx"
    export_onnx(exported_network(detector, detections=True, input_dtype=request.param), path)
    return detector, path, request.param


@pytest.mark.parametrize("batch", [1, 3])
def test_detections_from_inside_the_graph_are_the_same_in_the_same_order(with_nms, images, batch):
    detector, path, dtype = with_nms
    inputs = images if dtype == "uint8" else images.float() / 255
    got = OnnxDetector(path)(inputs[:batch], SIZES[:batch])
    assert_same_detections(got, detector, images[:batch], SIZES[:batch])


def test_the_file_is_one_checked_onnx_of_opset_18_with_its_metadata(with_nms):
    _, path, dtype = with_nms
    proto = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(proto)
    assert next(entry.version for entry in proto.opset_import if entry.domain == "") >= 18
    assert [path.name for path in path.parent.iterdir()] == ["m.onnx"]
    assert [output.name for output in proto.graph.output] == ["boxes", "scores", "labels", "num_detections"]
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(about["class_names"]) == ["cat", "dog", "owl"]
    assert json.loads(about["post_process"])["score_threshold"] == 0.3
    assert json.loads(about["input"])["dtype"] == dtype
    loaded = OnnxDetector(path)
    assert (loaded.class_names, loaded.image_size, loaded.antialias) == (("cat", "dog", "owl"), 300, True)
    with pytest.raises(ValueError, match=r"m\.onnx: metadata: thresholds: must have the name of every class"):
        read_export_metadata({**about, "thresholds": '{"cat": 0.5, "dog": 0.5, "cow": 0.5}'}, where="m.onnx")


def test_raw_outputs_end_in_the_same_detections(tmp_path, images):
    detector = small_detector(score_threshold=0.3, coder=BoxCoder((0.1, 0.2, 0.3, 0.25)))
    export_onnx(exported_network(detector), tmp_path / "m.onnx")
    exported = OnnxDetector(tmp_path / "m.onnx")
    with torch.no_grad():
        want = detector.model(images[:1])
    for ours, theirs in zip(exported.run(images[:1]), want, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert_same_detections(exported(images, SIZES), detector, images, SIZES)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 5},
        {"max_detections": 3},
        {"score_threshold": 0.5, "nms_threshold": 0.1},
        {"score_threshold": 0.99},
        {"top_k": 20_000, "max_detections": 50},
    ],
)
def test_steps_of_fixed_shape_find_what_post_process_finds(settings):
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(400, 4, generator=generator) * 0.4 + 0.1
    post_process = PostProcess(boxes, **settings)
    output = SSDOutput(torch.randn(2, 400, 4, generator=generator), 2 * torch.randn(2, 400, 4, generator=generator))
    sizes = torch.ones(2, 2)
    boxes, scores, labels, counts = FixedPostProcess(post_process)(output)
    for i, want in enumerate(post_process(output, sizes)):
        n = int(counts[i])
        assert n == len(want["scores"])
        assert torch.equal(labels[i, :n], want["labels"])
        assert torch.equal(scores[i, :n], want["scores"])
        assert torch.equal(boxes[i, :n], want["boxes"])
        assert not boxes[i, n:].any()
        assert not scores[i, n:].any()
        assert not labels[i, n:].any()


@pytest.mark.parametrize("detections", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_torch_export_file_gives_the_same_tensors_for_any_batch(tmp_path, images, detections):
    detector = small_detector()
    export_torch(exported_network(detector, detections=detections), tmp_path / "m.pt2")
    extra = {"ssdnorm.json": ""}
    network = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    assert json.loads(json.loads(extra["ssdnorm.json"])["class_names"]) == ["cat", "dog", "owl"]
    for batch in (1, 3):
        with torch.no_grad():
            want = detector.model(images[:batch])
            want = FixedPostProcess(detector.post_process)(want) if detections else want
            for ours, theirs in zip(network(images[:batch]), want, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_the_operator_keeps_pytorchs_rules():
    boxes, scores = torch.rand(2, 6, 4).cumsum(dim=-1), torch.rand(2, 6)
    torch.library.opcheck(nms_mask, (boxes, scores, 0.5, 0.1))


def test_what_cannot_be_exported_is_refused(tmp_path):
    detector = small_detector()
    with pytest.raises(ValueError, match="opset: must be 18 or more; got 11"):
        export_onnx(exported_network(detector), tmp_path / "m.onnx", opset=11)
    with pytest.raises(ValueError, match="input_dtype: must be uint8 or float32; got 'int8'"):
        exported_network(detector, input_dtype="int8")
    with pytest.raises(ValueError, match="training mode"):
        exported_network(detector.train())


def test_files_that_are_no_export_of_ours_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m.onnx: no such ONNX file"):
        OnnxDetector(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"m.onnx: not a readable ONNX file, or cut off"):
        OnnxDetector(tmp_path / "m.onnx")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=opset), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m.onnx: not exported by ssdnorm \(format None"):
        OnnxDetector(tmp_path / "m.onnx")
