"""ImageNet weights: every file's tensors in the backbone, and the statistics that belong to them."""

import copy

import numpy as np
import pytest
import torch
from torchvision.models import vgg16, vgg16_bn

from ssdnorm import ssd300_vgg16
from ssdnorm.models.weights import IMAGENET_MEAN, load_backbone_weights

CONVS = {0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3",
         17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"}  # fmt: skip


def convolutions_of(build):
    """A VGG with random values and without its classifier."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build(weights=None).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(shape, generator=generator) * 0.1 + (0.5 if "running_var" in name else 0.0)
        for name, shape in shapes.items()
        if name.startswith("features")
    }


def classifier():
    """VGG16's fully connected layers as views into few numbers, so that their files are small."""
    generator = torch.Generator().manual_seed(2)
    numbers = torch.rand(7 * 4096 + 11 * 25088, generator=generator)
    return {
        "classifier.0.weight": numbers.as_strided((4096, 25088), (7, 11)),
        "classifier.0.bias": numbers[:4096],
        "classifier.3.weight": numbers.as_strided((4096, 4096), (7, 11)),
        "classifier.3.bias": numbers[4096:8192],
    }


@pytest.fixture(scope="module")
def vgg():
    return convolutions_of(vgg16)


@pytest.fixture(scope="module")
def drawn():
    """An SSD300 as it is drawn; copy it before changing it."""
    return ssd300_vgg16(3)


def test_torchvisions_vgg16_fills_all_fifteen_convolutions(tmp_path, vgg):
    vgg = vgg | classifier()
    torch.save(vgg, tmp_path / "vgg16.pth")
    model = ssd300_vgg16(3, weights=tmp_path / "vgg16.pth")
    backbone = model.features.backbone
    for place, name in CONVS.items():
        assert torch.equal(backbone.get_submodule(name).conv.weight, vgg[f"features.{place}.weight"])
        assert torch.equal(backbone.get_submodule(name).conv.bias, vgg[f"features.{place}.bias"])
    fc6 = vgg["classifier.0.weight"].reshape(4096, 512, 7, 7)
    for o, i, y, x in [(0, 0, 0, 0), (1, 2, 1, 2), (1023, 511, 2, 0)]:
        assert backbone.fc6.conv.weight[o, i, y, x] == fc6[4 * o, i, 3 * y, 3 * x]
    assert backbone.fc7.conv.weight[5, 9, 0, 0] == vgg["classifier.3.weight"][20, 36]
    assert torch.equal(backbone.fc6.conv.bias, vgg["classifier.0.bias"][::4])
    torch.testing.assert_close(model.image_mean, torch.tensor(IMAGENET_MEAN))


@pytest.mark.parametrize("layers", [{}, {"classifier.0.weight": torch.tensor(torch.nan).expand(4096, 25088)}])
def test_without_a_classifier_fc6_and_fc7_stay_as_drawn(tmp_path, vgg, drawn, layers):
    torch.save(vgg | layers, tmp_path / "vgg16.pth")
    model = ssd300_vgg16(3, weights=tmp_path / "vgg16.pth")
    assert torch.equal(model.features.backbone.fc6.conv.weight, drawn.features.backbone.fc6.conv.weight)
    assert torch.equal(model.features.backbone.conv1_1.conv.weight, vgg["features.0.weight"])


def test_batch_norms_are_loaded_where_there_are_some_and_folded_where_not(tmp_path):
    state = convolutions_of(vgg16_bn)
    torch.save(state, tmp_path / "vgg16_bn.pth")
    with_norm = ssd300_vgg16(3, weights=tmp_path / "vgg16_bn.pth", backbone_norm="batch_norm").eval()
    without = ssd300_vgg16(3, weights=tmp_path / "vgg16_bn.pth").eval()
    assert torch.equal(with_norm.features.backbone.conv1_2.norm.running_mean, state["features.4.running_mean"])
    assert torch.equal(with_norm.features.backbone.conv5_3.norm.weight, state["features.41.weight"])
    x = torch.rand(1, 3, 8, 8)
    blocks = [model.features.backbone.get_submodule("conv1_1") for model in (with_norm, without)]
    with torch.no_grad():
        torch.testing.assert_close(blocks[0](x), blocks[1](x))


def test_the_oxford_release_is_turned_from_bgr_to_rgb(tmp_path, drawn):
    model = copy.deepcopy(drawn)
    shapes = {name: model.features.backbone.get_submodule(name).conv.weight.shape for name in CONVS.values()}
    arrays = {f"{name}.weight": np.random.default_rng(0).random(shape, np.float32) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "vgg.npz", **arrays)
    load_backbone_weights(model, tmp_path / "vgg.npz")
    weight = model.features.backbone.conv1_1.conv.weight
    for rgb, bgr in ((0, 2), (1, 1), (2, 0)):
        assert np.array_equal(weight[:, rgb].detach().numpy(), arrays["conv1_1.weight"][:, bgr])
    torch.testing.assert_close(model.image_mean * 255, torch.tensor([123.68, 116.779, 103.939]))
    torch.testing.assert_close(model.image_std * 255, torch.ones(3))


def test_amdegroots_reduced_vgg_is_loaded_as_it_is(tmp_path, drawn):
    model = copy.deepcopy(drawn)
    names = {**CONVS, 31: "fc6", 33: "fc7"}
    state = {
        f"{place}.{word}": torch.rand(getattr(model.features.backbone.get_submodule(name).conv, word).shape)
        for place, name in names.items()
        for word in ("weight", "bias")
    }
    torch.save(state, tmp_path / "vgg16_reducedfc.pth")
    load_backbone_weights(model, tmp_path / "vgg16_reducedfc.pth")
    for place, name in names.items():
        assert torch.equal(model.features.backbone.get_submodule(name).conv.weight, state[f"{place}.weight"])
    torch.testing.assert_close(model.image_mean * 255, torch.tensor([123.0, 117.0, 104.0]))


def test_the_real_oxford_weights_fire_on_edges_and_not_on_plain_colour(real_data):
    model = ssd300_vgg16(3, dropout=0, weights=real_data("vgg16_conv_fp16.npz")).eval()
    assert model.features.backbone.conv1_1.conv.weight.dtype == torch.float32
    plain = torch.zeros(1, 3, 300, 300) + model.image_mean[:, None, None]
    edges = plain.clone()
    edges[..., 100:200] = 1.0
    with torch.no_grad():
        still, lively = (model.features.backbone(model.normalize(x))[0]["conv4_3"].std() for x in (plain, edges))
    assert lively > 3 * still


def test_a_narrow_model_is_refused(tmp_path, vgg):
    torch.save(vgg, tmp_path / "f.pth")
    with pytest.raises(ValueError, match=r"f.pth: does not fit the model; .*conv1_1.* 8 in the model: set width"):
        ssd300_vgg16(3, width=0.1, weights=tmp_path / "f.pth")


def test_a_missing_key_and_an_unknown_file_are_named(tmp_path, vgg):
    torch.save({k: v for k, v in vgg.items() if k != "features.10.bias"}, tmp_path / "f.pth")
    with pytest.raises(ValueError, match=r"f.pth: the key 'features.10.bias' is missing"):
        ssd300_vgg16(3, weights=tmp_path / "f.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "f.pth")
    with pytest.raises(ValueError, match=r"f.pth: no VGG16 backbone found.*got a"):
        ssd300_vgg16(3, weights=tmp_path / "f.pth")


def test_an_unknown_name_gets_the_nearest_guess():
    with pytest.raises(ValueError, match=r"unknown weights 'VGG16_Weights.IMAGENET1K_V2'; .*Did you mean"):
        ssd300_vgg16(3, weights="VGG16_Weights.IMAGENET1K_V2")
