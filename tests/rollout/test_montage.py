"""Several pictures of one step become a single one."""

import numpy as np
import torch

from worldmodel.rollout.montage import join_arrays, join_pictures, join_row, place_pictures


def test_one_picture_in_colour_stays_as_it_is():
    picture = torch.rand(2, 5, 6, 8, 3)
    assert torch.equal(join_pictures({"image": picture}), picture)
    assert join_row({"image": picture.mul(255).byte().numpy()}).shape == (2, 5, 6, 8, 3)


def test_pictures_stand_in_the_order_of_their_names():
    left, right = np.full((4, 6, 3), 10, np.uint8), np.full((4, 7, 3), 20, np.uint8)
    joined = join_arrays({"b": right, "a": left})
    assert joined.shape == (4, 13, 3) and (joined[:, :6] == 10).all()
    assert (joined[:, 6:] == 20).all()


def test_lower_pictures_are_scaled_to_the_height_of_the_highest():
    low = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    joined = join_arrays({"a": np.zeros((6, 5, 3), np.uint8), "b": low})
    assert joined.shape == (6, 5 + 9, 3)
    np.testing.assert_array_equal(joined[:, 5:], low.repeat(3, 0).repeat(3, 1))


def test_channels_beyond_colour_are_grey_pictures():
    for channels, tiles in ((1, 1), (2, 2), (3, 1), (4, 2)):
        picture = torch.rand(4, 6, channels)
        joined = join_pictures({"x": picture})
        assert joined.shape == (4, 6 * tiles, 3)
        first = picture[..., :3] if channels >= 3 else picture[..., :1].expand(4, 6, 3)
        assert torch.equal(joined[:, :6], first)
        if tiles == 2:
            assert torch.equal(joined[:, 6:], picture[..., -1:].expand(4, 6, 3))


def test_the_first_tile_of_each_picture_is_where_it_is_said_to_be():
    shapes = {"c": (4, 3, 3), "a": (6, 5, 4), "b": (2, 3, 2)}
    pictures = {k: np.full(shape, i + 1, np.uint8) for i, (k, shape) in enumerate(shapes.items())}
    joined = join_arrays(pictures)
    places = place_pictures(shapes)
    assert joined.shape[1] == 5 + 5 + 9 + 9 + 4 and set(places) == set(shapes)
    for name, (left, width) in places.items():
        begin, end = round(left * joined.shape[1]), round((left + width) * joined.shape[1])
        assert end - begin == {"a": 5, "b": 9, "c": 4}[name]
        assert (joined[:, begin:end] == pictures[name].flat[0]).all()
        assert begin == 0 or (joined[:, begin - 1] != pictures[name].flat[0]).all()


def test_rows_without_pictures_have_none():
    assert join_row({"vector": np.zeros(3, np.float32), "reward": np.float32(1)}) is None
