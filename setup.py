"""Builds `metasd._C` from csrc/. Everything else about the package stands in pyproject.toml."""

import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

openmp = [] if sys.platform == "darwin" else ["-fopenmp"]

setup(
    ext_modules=[
        Pybind11Extension(
            "metasd._C",
            sorted(glob("csrc/*.cpp")),
            depends=sorted(glob("csrc/*.h") + glob("csrc/*.inl")),
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=[
                "-O3",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-Wno-psabi",
                *openmp,
            ],
            extra_link_args=openmp,
        )
    ]
)
