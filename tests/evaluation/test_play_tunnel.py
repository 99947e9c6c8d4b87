"""The ssh line that reaches the page of play where there is no display."""

import pytest

from worldmodel.evaluation.play.tunnel import describe_tunnel

SSH = "203.0.113.9 50412 192.0.2.7 22"
SLURM = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "node12", "SLURM_SUBMIT_HOST": "login1"}


@pytest.mark.parametrize(
    ("environ", "in_container", "wanted"),
    [
        ({}, False, "ann@box"),
        ({"SSH_CONNECTION": SSH}, False, "ann@192.0.2.7"),
        ({"SSH_CONNECTION": SSH.replace("22", "2222")}, False, "-p 2222 ann@192.0.2.7"),
        ({"SSH_CONNECTION": "damaged"}, False, "ann@box"),
        (SLURM, False, "-J ann@login1 ann@node12"),
        ({**SLURM, "SSH_CONNECTION": SSH}, False, "-J ann@192.0.2.7 ann@node12"),
        (
            {"SLURM_JOB_ID": "7", "SSH_CONNECTION": SSH.replace(" 22", " 2222")},
            False,
            "-J ann@192.0.2.7:2222 ann@box",
        ),
        ({}, True, "ann@HOST; HOST runs this container, started with --network host"),
        ({"SSH_CONNECTION": SSH}, True, "ann@192.0.2.7"),
    ],
)
def test_the_line_names_the_way_that_ssh_took(environ, in_container, wanted):
    found = describe_tunnel(8123, {"USER": "ann", **environ}, "box", in_container)
    assert found == f"ssh -L 8123:localhost:8123 {wanted}"


def test_without_a_user_a_word_stands_for_it():
    assert describe_tunnel(1, {}, "box", False) == "ssh -L 1:localhost:1 USER@box"
