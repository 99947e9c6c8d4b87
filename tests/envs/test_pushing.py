"""The pushing task: its contacts obey their equations, and its picture shows its state."""

import math

import numpy as np
import pytest
from worldmodel.envs.tasks import contacts, pushing
from worldmodel.envs.tasks.contacts import Body, Contact, Shape

from worldmodel import envs

SQUARE = Shape(((-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)), (250, 90, 20))


def make(obs="state", repeat=1, time_limit=None, size=(64, 64), **kwargs):
    return envs.make(
        "pushing", obs=obs, repeat=repeat, time_limit=time_limit, size=size, kwargs=kwargs
    )


def get_poses(task):
    return [(body.x, body.y, body.angle) for body in task.bodies]


def sample_policy(seed):
    generator = np.random.default_rng(seed)
    return lambda env: generator.uniform(-1, 1, 2).astype(np.float32)


def test_a_shapes_spread_is_that_of_its_points():
    assert SQUARE.spread2 == pytest.approx(0.2**2 / 6)
    shape = pushing.sample_shape(np.random.default_rng(5))
    inside = np.random.default_rng(0).uniform(-0.3, 0.3, (200_000, 2))
    following = contacts.list_followers(shape.corners)
    for (x0, y0), (x1, y1) in zip(shape.corners, following, strict=True):
        dx, dy = x1 - x0, y1 - y0
        inside = inside[dx * (inside[:, 1] - y0) > dy * (inside[:, 0] - x0)]
    assert np.mean((inside**2).sum(1)) == pytest.approx(shape.spread2, rel=0.02)
    np.testing.assert_allclose(inside.mean(0), 0.0, atol=2e-3)


@pytest.mark.parametrize("place", [0.0, 0.03, -0.09])
@pytest.mark.parametrize("slide", [0.0, 0.001, -0.05])
def test_a_push_obeys_the_limit_surface_and_the_friction_cone(place, slide):
    """From the left at height `place`: normal (1, 0), so that "to the left" is up."""
    body, depth = Body(SQUARE, 0.0, 0.0, 0.0), 0.004
    body.push(Contact((-0.1, place), (1.0, 0.0), depth), slide)
    vx, vy, turn = body.x, body.y, body.angle
    assert turn * SQUARE.spread2 == pytest.approx(-0.1 * vy - place * vx), (
        "the torque of the force"
    )
    at_contact = np.array([vx - turn * place, vy + turn * -0.1])
    assert at_contact[0] == pytest.approx(depth), "the overlap is resolved"
    assert abs(vy) <= contacts.FRICTION * vx + 1e-12, "the force lies in the cone"
    if abs(vy) < contacts.FRICTION * vx - 1e-9:
        assert at_contact[1] == pytest.approx(slide), "it sticks"
    else:
        assert (slide - at_contact[1]) * vy > 0, "it slides, and friction drags along"


def test_a_push_through_the_centre_only_moves_and_one_beside_it_turns():
    env = make(goal=False)
    env.reset(seed=0)
    task = env.unwrapped
    for beside, turns in ((0.0, 0), (0.06, -1), (-0.06, 1)):
        task.bodies, task.pusher = [Body(SQUARE, 0.0, 0.0, 0.0)], (-0.3, beside)
        for _ in range(4):
            env.step(np.float32([1, 0]))
        body = task.bodies[0]
        assert body.x > 0.05 and np.sign(round(body.angle, 9)) == turns
        assert abs(body.x - 0.1 - task.pusher[0] - pushing.RADIUS) < (0.05 if turns else 2e-3)


def test_the_dynamics_do_not_depend_on_the_direction_that_one_looks_from():
    task = make(goal=False).unwrapped
    moves = np.random.default_rng(3).uniform(-0.2, 1.0, (20, 2))

    def play(angle):
        """Play the scene turned by an angle about the middle; turn what comes of it back."""
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        x, y = turn @ (0.05, 0.0)
        task.bodies = [Body(SQUARE, float(x), float(y), 0.3 + angle)]
        px, py = turn @ (-0.2, -0.15)
        task.pusher = (float(px), float(py))
        for move in moves * 0.02:
            task.move_pusher(*(turn @ move))
        body = task.bodies[0]
        places = turn.T @ np.array([[body.x, task.pusher[0]], [body.y, task.pusher[1]]])
        return [*places.ravel(), body.angle - angle]

    start = play(0.0)
    assert abs(start[-1] - 0.3) > 0.05 and start[0] > 0.1, "it was pushed and has turned"
    for angle in (0.4, 2.0, -1.1):
        np.testing.assert_allclose(play(angle), start, atol=1e-9)


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("expert", [False, True])
def test_nothing_overlaps_or_leaves_and_only_what_is_touched_moves(objects, expert):
    env = make(objects=objects, start_near=True)
    task, policy = env.unwrapped, envs.load_expert("pushing") if expert else sample_policy(1)
    moved = stuck = 0
    for seed in range(12):
        env.reset(seed=seed)
        assert task.is_free(0.0)
        for _ in range(60):
            before, pusher = get_poses(task), task.pusher
            action = policy(env)
            env.step(action)
            assert task.is_free(pushing.OVERLAP)
            assert np.abs(task.pusher).max() <= pushing.TABLE + 1e-9
            after = get_poses(task)
            moved += after != before
            path = math.dist(task.pusher, pusher)
            far = [
                math.dist(pusher, pose[:2]) > 0.28 + pushing.RADIUS + path + 0.01
                for pose in before
            ]
            if all(far):
                assert after == before
            assert np.abs(np.subtract(after, before)[:, :2]).max() <= 0.12, "no jumps"
            stuck += task.pusher == pusher and np.abs(action).max() > 0.1
    assert moved > 30
    assert stuck < (100 if objects > 1 else 10), "only several objects jam"


@pytest.mark.parametrize("objects, solved", [(1, 50), (3, 46)])
def test_the_expert_succeeds_as_often_as_stated(objects, solved):
    env, expert = make(objects=objects), envs.load_expert("pushing")
    count = 0
    for seed in range(50):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, over, info = env.step(expert(env))
            gap = env.unwrapped.measure_gap()
            assert reward == -gap and info["success"] is (gap <= pushing.WITHIN)
        count += info["success"]
    assert count == solved


def test_random_actions_touch_often_from_a_start_beside_an_object():
    def count_moves(**kwargs):
        env, policy, moves = make(time_limit=20, goal=False, **kwargs), sample_policy(0), 0
        for seed in range(100):
            env.reset(seed=seed)
            over = False
            while not over:
                before = get_poses(env.unwrapped)
                over = env.step(policy(env))[3]
                moves += get_poses(env.unwrapped) != before
        return moves / 2000

    assert count_moves() < 0.04 and count_moves(start_near=True) > 0.12
    task = make(start_near=True).unwrapped
    task.reset(seed=1)
    near = pushing.RADIUS + pushing.NEAR + 0.01
    assert contacts.find_disc_contact(*task.pusher, near, task.bodies[0]) is not None


def test_shapes_are_drawn_anew_unless_they_are_fixed():
    def draw(seed, **kwargs):
        task = make(**kwargs).unwrapped
        task.reset(seed=seed)
        return [body.shape for body in task.bodies], get_poses(task)

    assert draw(1)[0] != draw(2)[0] and draw(1) == draw(1)
    fixed = [draw(seed, shapes=7, objects=2) for seed in (1, 2)]
    assert fixed[0][0] == fixed[1][0] and fixed[0][1] != fixed[1][1]
    assert fixed[0][0] != draw(1, shapes=8, objects=2)[0]
    for seed in range(200):
        corners = np.array(pushing.sample_shape(np.random.default_rng(seed)).corners)
        edges = np.roll(corners, -1, 0) - corners
        following = np.roll(edges, -1, 0)
        bends = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
        assert (bends > 0).all(), "convex, counter-clockwise"
        assert 0.1 < np.linalg.norm(corners, axis=1).max() < 0.28


@pytest.mark.parametrize("goal", [False, True])
def test_the_vector_is_the_pose_and_the_goal(goal):
    env = make(objects=2, goal=goal)
    seen, _ = env.reset(seed=4)
    task = env.unwrapped
    poses = [v for x, y, a in get_poses(task) for v in (x, y, math.sin(a), math.cos(a))]
    expected = [*task.pusher, *poses, *(task.goal if goal else ())]
    np.testing.assert_array_equal(seen, np.float32(expected))
    _, reward, _, _, info = env.step(np.zeros(2, np.float32))
    assert (reward < 0, "success" in info) == (goal, goal)


def test_the_picture_shows_the_state_and_a_set_state_its_picture():
    env = make("pixels", size=(96, 96), goal=False)
    env.reset(seed=6)
    task = env.unwrapped
    for x, y, angle in ((0.3, -0.4, 0.0), (-0.25, 0.1, 0.9)):
        task.pusher = (-0.6, -0.6)
        task.bodies[0].place(x, y, angle)
        picture = env.render().astype(float)
        close = np.abs(picture - task.bodies[0].shape.colour).max(-1) < 30
        rows, columns = np.nonzero(close)
        unit = 2 / 96
        place = ((columns + 0.5).mean() * unit - 1, 1 - (rows + 0.5).mean() * unit)
        np.testing.assert_allclose(place, (x, y), atol=unit / 2)
        white = np.argwhere(picture.min(-1) > 230).mean(0) + 0.5
        np.testing.assert_allclose(
            (white[1] * unit - 1, 1 - white[0] * unit), (-0.6, -0.6), atol=unit
        )
    task.bodies[0].place(-0.25, 0.1, 1.5)
    assert not np.array_equal(env.render(), picture), "it shows the angle"
    other = make("pixels", size=(96, 96), goal=False).unwrapped
    other.reset(seed=8)
    other.set_state(task.state())
    np.testing.assert_array_equal(other.render(), task.render())


def test_the_goal_is_a_ring_where_the_object_belongs():
    with_goal, without = make("pixels"), make("pixels", goal=False)
    ring = (with_goal.reset(seed=0)[0] != without.reset(seed=0)[0]).any(-1)
    task = with_goal.unwrapped
    rows, columns = np.nonzero(ring)
    middle = ((columns.min() + columns.max() + 1) / 64 - 1, 1 - (rows.min() + rows.max() + 1) / 64)
    np.testing.assert_allclose(middle, task.goal, atol=1 / 32)
    row, column = round(32 * (1 - task.goal[1])), round(32 * (1 + task.goal[0]))
    assert not ring[row, column], "the goal is a ring, not a disc"


def test_shapes_of_another_task_are_taken_only_where_they_fit():
    task, other = make(objects=2).unwrapped, make(objects=2).unwrapped
    task.reset(seed=1)
    other.reset(seed=2)
    poses = get_poses(task)
    assert task.take_shapes(other) is task.is_free(0.0) and get_poses(task) == poses
    assert [b.shape for b in task.bodies] == [b.shape for b in other.bodies]
    task.bodies[1].place(*poses[0])
    assert task.take_shapes(other) is False


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"objects": 4}, "env.kwargs.objects must be 1 to 3, not 4"),
        ({"objects": 1.0}, "env.kwargs.objects must be 1 to 3"),
        ({"goal": 1}, "env.kwargs.goal must be true or false, not 1"),
        ({"shapes": -1}, "env.kwargs.shapes must be a seed or none, not -1"),
        ({"object": 2}, "did you mean 'objects'"),
        ({"obj": 2}, "env.kwargs.obj: pushing takes objects, goal, shapes, start_near"),
    ],
)
def test_wrong_arguments_are_one_line(kwargs, words):
    with pytest.raises(envs.EnvSettingsError, match=words) as problem:
        make(**kwargs)
    assert "\n" not in str(problem.value)
