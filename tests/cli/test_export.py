"""The export command: what it writes and says; test_predict.py runs its ONNX files."""

from ssdnorm import ssd300_vgg16
from ssdnorm.cli import main
from ssdnorm.models.checkpoint import save_checkpoint


def test_a_file_is_written_and_described(tmp_path, capsys):
    checkpoint, path = tmp_path / "model.safetensors", tmp_path / "m.pt2"
    save_checkpoint(checkpoint, ssd300_vgg16(3, width=0.02), class_names=["cat", "dog"], post_process={})
    assert main(["export", "--checkpoint", str(checkpoint), "--output", str(path)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"written: {path} (")
    assert line.endswith("images (B, 3, 300, 300) uint8 -> locs, logits\n")
    assert path.stat().st_size > 10_000
