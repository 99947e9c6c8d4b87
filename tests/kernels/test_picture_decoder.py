"""The decoder in C draws what the model draws."""

import numpy as np
import pytest
import torch

from worldmodel.kernels.picture_decoder import PackedDecoder, load_library
from worldmodel.model.mean_image import MeanImage, to_pixels
from worldmodel.model.networks import ImageDecoder

needs_library = pytest.mark.skipif(load_library() is None, reason="no C compiler here")


def make_decoder(shape, channels, patch, inputs=13):
    torch.manual_seed(0)
    decoder = ImageDecoder(inputs, shape, channels, patch).requires_grad_(False)
    for conv in decoder.modules():
        if getattr(conv, "bias", None) is not None:
            conv.bias.uniform_(-0.3, 0.3)
    mean = MeanImage(shape, 1)
    mean.picture.uniform_(0, 255)
    return decoder, mean


@needs_library
@pytest.mark.parametrize(
    ("shape", "channels", "patch"),
    [
        ((64, 64, 3), (32, 32, 64), 4),  # the quickstart's
        ((80, 48, 3), (16, 48, 8), 4),  # maps of 5 x 3, 10 x 6 and 20 x 12
        ((12, 20, 1), (24,), 4),  # no doubling
        ((32, 16, 4), (16, 32), 8),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_pixels_are_those_of_the_model(shape, channels, patch, threads):
    decoder, mean = make_decoder(shape, channels, patch)
    assert PackedDecoder.supports(decoder)
    packed, feat = PackedDecoder(decoder, mean.picture), torch.randn(7, 13)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        drawn, wanted = packed.decode_pixels(feat), to_pixels(mean.add_to(decoder(feat)))
    finally:
        torch.set_num_threads(before)
    assert drawn.shape == wanted.shape == (7, *shape) and drawn.dtype == torch.uint8
    apart = np.abs(drawn.numpy().astype(int) - wanted.numpy())
    assert apart.max() <= 1 and apart.mean() < 1e-3 and wanted.float().std() > 50


def test_what_it_does_not_support_stays_with_torch(monkeypatch):
    small = make_decoder((32, 32, 3), (8, 16), 4)[0]  # maps of 8 channels fill no block
    halving = make_decoder((32, 32, 3), (16, 16), 2)[0]
    assert not PackedDecoder.supports(small) and not PackedDecoder.supports(halving)
    decoder = make_decoder((32, 32, 3), (16, 16), 4)[0]
    assert not PackedDecoder.supports(decoder.double())
    monkeypatch.setattr("worldmodel.kernels.picture_decoder.load_library", lambda: None)
    assert not PackedDecoder.supports(decoder.float())
