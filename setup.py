"""The two source roots, engine/ and kernels/; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages("engine") + find_packages("kernels"),
    package_dir={"fewstep": "engine/fewstep", "fewstep_kernels": "kernels/fewstep_kernels"},
)
