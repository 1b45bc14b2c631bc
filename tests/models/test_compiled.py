"""Compiling for inference: frozen once, the same numbers, never in training mode."""

import pytest
import torch
from torch import nn

from ssdnorm.models.compiled import compile_for_inference


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"the model is in training mode; call \.eval\(\)"):
        compile_for_inference(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))


@pytest.mark.slow
def test_the_compiled_model_gives_the_same_and_is_compiled_once():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    images = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    compile_for_inference(model, images)
    with torch.inference_mode(), torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(model(images.clone()), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model[0].weight.zero_()
    with torch.inference_mode():
        torch.testing.assert_close(model(images.clone()), expected, rtol=1e-4, atol=1e-5)  # frozen
