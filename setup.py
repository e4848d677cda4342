"""Builds `metasd._C` from csrc/. Everything else about the package stands in pyproject.toml.

`METASD_CUDA`: `auto` (default) compiles csrc/*.cu if there is an nvcc that can, `1` insists on it,
`0` does not look. `METASD_CUDA_ARCHS`: compute capabilities, "80;90" unless told otherwise: machine
code for each, and code for the last that drivers compile for newer GPUs. The CUDA runtime is linked
in, so the module needs neither a GPU nor a driver to be imported. `METASD_BUILD_JOBS`: how many
files are compiled at a time, by default as many as there are processors.
"""

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

# Apple's compiler comes without OpenMP: there, csrc/parallel.h makes its passes in one thread.
openmp = [] if sys.platform == "darwin" else ["-fopenmp"]


def find_cuda() -> tuple[str, str] | None:
    """nvcc and the static CUDA runtime of one toolkit."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        homes += [str(Path(nvcc).parents[1]), str(Path(nvcc).resolve().parents[1])]
    for home in filter(None, [*homes, "/usr/local/cuda"]):
        for folder in ("lib64", "lib", "targets/*/lib", "lib/*"):
            runtime = glob(f"{home}/{folder}/libcudart_static.a")
            if runtime and os.path.isfile(f"{home}/bin/nvcc"):
                return f"{home}/bin/nvcc", runtime[0]
    return None


class BuildWithCuda(build_ext):
    def build_extension(self, ext: Pybind11Extension) -> None:
        wanted = os.environ.get("METASD_CUDA", "auto")
        if wanted not in ("auto", "0", "1"):
            sys.exit(f"METASD_CUDA must be auto, 0 or 1; got {wanted!r}")
        problem = self.add_cuda(ext) if wanted != "0" else None
        if problem and wanted == "1":
            sys.exit(f"METASD_CUDA=1, but {problem}")
        if problem:
            print(f"metasd is built for the CPU alone: {problem}")
        # What an earlier build left is only as good as long as the same is asked for.
        stamp, asked = Path(self.build_temp, "cuda.txt"), str(ext.define_macros)
        if not stamp.is_file() or stamp.read_text() != asked:
            self.force = True
        super().build_extension(ext)
        stamp.write_text(asked)

    def add_cuda(self, ext: Pybind11Extension) -> str | None:
        """Compiles csrc/*.cu and adds the objects to `ext`; says why where that cannot be."""
        cuda = find_cuda()
        if cuda is None:
            return (
                "neither CUDA_HOME, CUDA_PATH, PATH nor /usr/local/cuda leads to a CUDA toolkit "
                "with bin/nvcc and libcudart_static.a"
            )
        nvcc, runtime = cuda
        given = os.environ.get("METASD_CUDA_ARCHS") or "80;90"
        if not re.fullmatch(r"\d{2,3}[af]?(;\d{2,3}[af]?)*", given):
            sys.exit(f"METASD_CUDA_ARCHS must be such as 80;90; got {given!r}")
        archs = given.split(";")
        targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        targets += [f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]
        macro = ("METASD_CUDA_ARCHS", f'"{";".join(archs)}"')
        flags = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler=-fPIC,-fvisibility=hidden"]
        objects = []
        os.makedirs(self.build_temp, exist_ok=True)
        for source in sorted(glob("csrc/*.cu")):
            objects.append(os.path.join(self.build_temp, os.path.basename(source) + ".o"))
            command = [nvcc, *flags, *targets, f"-D{macro[0]}={macro[1]}"]
            command += ["-c", source, "-o", objects[-1]]
            print(*command)
            if subprocess.run(command).returncode:
                return f"{nvcc} failed on {source}"
        ext.define_macros.append(macro)
        # The runtime's names stay inside: PyTorch may have loaded another version of it.
        ext.extra_objects += [*objects, runtime]
        ext.extra_link_args += ["-Wl,--exclude-libs,ALL", "-ldl", "-lrt", "-lpthread"]
        return None


ParallelCompile("METASD_BUILD_JOBS").install()

setup(
    cmdclass={"build_ext": BuildWithCuda},
    ext_modules=[
        Pybind11Extension(
            "metasd._C",
            sorted(glob("csrc/*.cpp")),
            depends=sorted(glob("csrc/*.h") + glob("csrc/*.inl") + glob("csrc/*.cu")),
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
    ],
)
