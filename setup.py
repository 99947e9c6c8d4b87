"""Which packages there are and where they lie; everything else is in pyproject.toml.

Installed, the folders envs/ and configs/ of a checkout lie inside worldmodel.
"""

from setuptools import find_packages, setup

INSIDE = {"worldmodel.envs": "envs", "worldmodel.configs": "configs"}

setup(
    packages=find_packages(include=["worldmodel*"])
    + [f"worldmodel.envs.{name}" for name in find_packages("envs")]
    + list(INSIDE),
    package_dir=INSIDE,
)
