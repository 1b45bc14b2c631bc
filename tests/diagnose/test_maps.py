"""The numbers of one map: what counts as zero."""

import math

import torch

from ssdnorm.diagnose.maps import dead_channels, is_dead, zero_positions


def test_a_channel_is_dead_and_a_position_zero_only_if_every_value_is():
    x = torch.zeros(2, 4, 1, 3)
    x[1, 1, 0, 2] = -1e-30  # however small, of either sign
    x[0, 2, 0, 0] = math.nan
    x[0, 3, 0, 0], x[1, 3, 0, 1] = 2.0, -2.0
    x[0, 0] = -0.0
    assert is_dead(x).tolist() == [True, False, False, False]
    assert dead_channels(x) == 0.25
    assert zero_positions(x) == torch.tensor(3 / 6)  # one image has a position that is not, the other two
