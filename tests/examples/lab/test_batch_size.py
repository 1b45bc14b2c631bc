"""Batch statistics tie an image's output to its batch; those of training and group norm do not."""

import torch
from batch_size import NORMS, draw_discs, statistics_of_the_batch, train
from demonstration import generator


def test_an_image_has_the_same_output_alone_and_in_a_batch_in_eval_mode_only():
    images, labels = draw_discs(64, 16, generator(0))
    network = train("batch_norm", images, labels, 5, 0).double()
    images = images.double()
    alone = network.eval()(images[:1])
    for size in (2, 16, 64):
        torch.testing.assert_close(network.eval()(images[:size])[:1], alone)
        assert (statistics_of_the_batch(network)(images[:size])[:1] - alone).abs().max() > 1e-3


def test_group_norm_does_not_depend_on_the_batch():
    images, labels = draw_discs(16, 16, generator(0))
    network = train(NORMS["group norm"], images, labels, 2, 0).double()
    images = images.double()
    torch.testing.assert_close(statistics_of_the_batch(network)(images)[:1], network.eval()(images[:1]))


def test_statistics_of_the_batch_leave_those_of_training_unchanged():
    images, labels = draw_discs(64, 16, generator(0))
    network = train("batch_norm", images, labels, 2, 0)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    statistics_of_the_batch(network)(images)
    assert len(before) == 6
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_a_disc_has_the_colour_of_its_label():
    images, labels = draw_discs(200, 16, generator(0))
    hues = images.amax((2, 3)) - images.mean((1, 2, 3))[:, None]  # per channel, over the grey ground
    assert all(hues[labels == label].mean(0).argmax() == label for label in range(3))
