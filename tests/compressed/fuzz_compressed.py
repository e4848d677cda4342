"""Damages the files of a compressed model: each time it must load and answer, or be refused.

python tests/compressed/fuzz_compressed.py --mutations 100000    # other ends are failures
python tests/compressed/fuzz_compressed.py --sanitize 100000     # under AddressSanitizer

Checksums are made right again after most mutations: what is tested is what stands behind them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metasd import _C
from metasd.compressed import CompressedModel, Query
from metasd.compressed.labels import Labels
from metasd.compressed.table import Table
from metasd.data.filter_index import KnownAnswers
from metasd.errors import InputError
from metasd.export.encode import encode

Files = dict[str, bytes]

KINDS = [
    ("complex", "sparse", "fp16", 0.1),
    ("complex", "sparse", "int8", 0.5),
    ("complex", "sparse", "bf16", 0.004),
    ("distmult", "column", "fp32", 0.5),
    ("cp", "int8", "int8", 1.0),
    ("rescal", "int4", "int4", 1.0),
    ("distmult", "ternary", "ternary", 1.0),
    ("complex", "int3", "int3", 1.0),
    ("complex", "int2", "int2", 1.0),
]
ENGINES = [
    name
    for name in ("amx", "avx512vnni", "avx512", "avx2", "portable")
    if _C.engine_supported(name)
]
ENTITIES, RELATIONS = 23, 3


def small_model(
    scoring: str, codec: str, weight_format: str, density: float, seed: int
) -> CompressedModel:
    random = np.random.default_rng(seed)
    rank = 9 if scoring == "rescal" else 70
    width = 2 * rank if scoring == "complex" else rank

    def table(rows: int, columns: int) -> Table:
        dense = random.standard_normal((rows, columns)) * (random.random((rows, columns)) < density)
        return encode(dense.astype(np.float32), codec, weight_format)

    triples = random.integers(0, (ENTITIES, RELATIONS, ENTITIES), (40, 3))
    labels = [f"entity {i:02d}" for i in range(ENTITIES)]
    return CompressedModel(
        scoring,
        rank,
        table(ENTITIES * (2 if scoring == "cp" else 1), width),
        table(2 * RELATIONS, rank * rank if scoring == "rescal" else width),
        Labels.of(labels, {labels[3]: "Ada", labels[4]: "Ada"}, "entity"),
        Labels.of([f"relation {i}" for i in range(RELATIONS)], {}, "relation"),
        KnownAnswers.of_triples(triples, ENTITIES, RELATIONS),
    )


def read(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """Bits, bytes, lengths and pieces of a file, changed in one of many ways."""
    changed, size = bytearray(data), len(data)
    if not size:
        return bytes(random.integers(0, 256, 5, dtype=np.uint8))
    at = int(random.integers(size))
    way = int(random.integers(8))
    if way == 0:
        changed[at] ^= 1 << int(random.integers(8))
    elif way == 1:
        changed[at] = int(random.integers(256))
    elif way == 2:
        del changed[at:]
    elif way == 3:
        del changed[at : at + int(random.integers(1, 9))]
    elif way == 4:
        changed[at:at] = bytes(random.integers(0, 256, int(random.integers(1, 9)), dtype=np.uint8))
    elif way == 5:
        word = int(random.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31, 2**32 - 1]))
        changed[at : at + 4] = word.to_bytes(4, "little")[: size - at]
    elif way == 6:
        to = int(random.integers(size))
        length = int(random.integers(1, 33))
        changed[at : at + length] = data[to : to + length]
    else:
        changed += data[: int(random.integers(1, 33))]
    return bytes(changed)


_VALUES: list[Any] = [
    *(-1, 0, 1, 2, 3, 255, 2**15, 2**31 - 1, 2**32, 2**40 - 1, 2**62, 2**63, 2**70, -(2**63)),
    *(
        0.5,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
        None,
        True,
        "",
        "../../x",
        [],
        {},
        [1],
        "fp16",
    ),
    *(
        "sparse",
        "column",
        "int8",
        "int4",
        "int3",
        "int2",
        "ternary",
        "bits",
        "delta8",
        "index16",
        "cp",
        "rescal",
    ),
]


def rewrite(tree: Any, random: np.random.Generator) -> Any:
    """A JSON tree with one value replaced, dropped or added."""
    if isinstance(tree, dict) and tree and random.random() < 0.9:
        key = str(random.choice(list(tree)))
        way = random.random()
        if way < 0.05:
            return {name: value for name, value in tree.items() if name != key}
        if way < 0.1:
            return {**tree, "entities.more": _VALUES[int(random.integers(len(_VALUES)))]}
        return {**tree, key: rewrite(tree[key], random)}
    if isinstance(tree, list) and tree and random.random() < 0.8:
        place = int(random.integers(len(tree)))
        return [*tree[:place], rewrite(tree[place], random), *tree[place + 1 :]]
    if isinstance(tree, int) and random.random() < 0.5:
        return tree + int(random.choice([-2, -1, 1, 2, 8, 64]))
    return _VALUES[int(random.integers(len(_VALUES)))]


def with_right_checksums(files: Files) -> Files:
    """The same files, their checksums as a hostile writer would make them."""
    try:
        config = json.loads(files["config.json"])
        config.pop("checksum", None)
        sums = {name: zlib.crc32(data) for name, data in files.items() if name.endswith(".tsv")}
        data = files["model.safetensors"]
        header, start = header_of(data)
        types = {"F32": "<f4", "F16": "<f2", "I8": "|i1", "U8": "|u1", "U16": "<u2", "U32": "<u4"}
        for name, about in header.items():
            begin, end = about["data_offsets"]
            text = f"{types[about['dtype']]} {tuple(about['shape'])}"
            sums[name] = zlib.crc32(data[start + begin : start + end], zlib.crc32(text.encode()))
        config["crc32"] = sums
        config["checksum"] = zlib.crc32(json.dumps(config, sort_keys=True).encode())
        return {**files, "config.json": json.dumps(config).encode()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return files


def overwrite(data: bytes, start: int, random: np.random.Generator) -> bytes:
    """Bytes from `start` on changed in place: the arrays of a file whose header stays right."""
    changed = bytearray(data)
    if start < len(data):
        for _ in range(int(random.choice([1, 1, 2, 20]))):
            at = int(random.integers(start, len(data)))
            word = flip(data[at : at + 4], random)[: len(data) - at]
            changed[at : at + len(word)] = word
    return bytes(changed)


def header_of(data: bytes) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), 8 + size


def mutate(files: Files, random: np.random.Generator) -> Files:
    """One to three changes: of arrays, of what is said about them, or of anything."""
    changed = dict(files)
    for _ in range(int(random.integers(1, 4))):
        way = random.random()
        try:
            arrays = changed["model.safetensors"]
            if way < 0.4:
                changed["model.safetensors"] = overwrite(arrays, header_of(arrays)[1], random)
            elif way < 0.6:
                config = json.loads(changed["config.json"])
                config["tables"] = rewrite(config["tables"], random)
                changed["config.json"] = json.dumps(config).encode()
            elif way < 0.7:
                config = json.dumps(rewrite(json.loads(changed["config.json"]), random))
                changed["config.json"] = config.encode()
            elif way < 0.8:
                header, start = header_of(arrays)
                text = json.dumps(rewrite(header, random)).encode()
                text += b" " * (-len(text) % 8)
                start_bytes = len(text).to_bytes(8, "little")
                changed["model.safetensors"] = start_bytes + text + arrays[start:]
            else:
                name = str(random.choice(sorted(changed)))
                changed[name] = flip(changed[name], random)
                if random.random() < 0.02:
                    del changed[name]
        except (KeyError, ValueError, TypeError):
            continue  # an earlier change left no such thing
    return with_right_checksums(changed) if random.random() < 0.9 else changed


def use(folder: Path) -> None:
    """Loads a model and asks it everything."""
    model = CompressedModel.from_pretrained(folder)
    label, relation = model.entity_labels[0], model.relation_labels[0]
    queries = [Query(label, relation), Query(None, relation, label)]
    model.answers(queries * 3, 5)
    model.answers(
        queries[:1], 3, candidates=[label, model.entity_labels[len(model.entity_labels) - 1]]
    )
    model.score([(label, relation, label)])
    model.neighbors(label, 3)
    model.embedding(label)
    model.dense()


def fuzz(mutations: int, seed: int, folder: Path, progress: Callable[[int], None]) -> Counter[str]:
    """Ends by kind: `refused`, and `answered` where the damage did no harm."""
    originals = []
    for number, kind in enumerate(KINDS):
        small_model(*kind, seed=number).save_pretrained(folder / "original")
        originals.append(read(folder / "original"))
    ends: Counter[str] = Counter()
    engine = _C.engine_isa()
    damaged = folder / "damaged"
    damaged.mkdir()
    for number in range(mutations):
        random = np.random.default_rng((seed, number))
        files = mutate(originals[number % len(originals)], random)
        for path in damaged.iterdir():
            path.unlink()
        for name, data in files.items():
            (damaged / name).write_bytes(data)
        _C.select_engine(ENGINES[number // len(originals) % len(ENGINES)])
        try:
            with np.errstate(all="ignore"):
                use(damaged)
            ends["answered"] += 1
        except InputError:
            ends["refused"] += 1
        except BaseException:
            print(f"mutation {number} of seed {seed}", file=sys.stderr)
            raise
        progress(number)
    _C.select_engine(engine)
    return ends


def sanitized(mutations: int, seed: int) -> int:
    """Builds metasd._C under AddressSanitizer in a copy of the sources, and fuzzes that."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "metasd"
        for name in ("csrc", "metasd", "kernels", "tests", "setup.py", "pyproject.toml"):
            source = root / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy / name)
        flags = "-fsanitize=address,undefined -fno-sanitize=alignment -fno-omit-frame-pointer -g1"
        settings = {**os.environ, "CFLAGS": flags, "LDFLAGS": flags, "METASD_CUDA": "0"}
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=copy, env=settings, check=True)
        compiler = os.environ.get("CC", "gcc")
        libraries = [
            subprocess.run(
                [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
            ).stdout.strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        settings["LD_PRELOAD"] = " ".join(libraries)
        settings["ASAN_OPTIONS"] = "detect_leaks=0:abort_on_error=1"
        settings["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1"
        settings["PYTHONPATH"] = str(copy)
        script = [sys.executable, str(copy / "tests" / "compressed" / "fuzz_compressed.py")]
        arguments = ["--mutations", str(mutations), "--seed", str(seed)]
        return subprocess.run([*script, *arguments], cwd=copy, env=settings, check=False).returncode


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--mutations", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--sanitize", type=int, metavar="MUTATIONS")
    chosen = arguments.parse_args()
    if chosen.sanitize:
        sys.exit(sanitized(chosen.sanitize, chosen.seed))
    print(_C.__file__, *ENGINES)

    def progress(number: int) -> None:
        if number % 10000 == 9999:
            print(f"{number + 1} mutations", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        print(dict(fuzz(chosen.mutations, chosen.seed, Path(folder), progress)))


if __name__ == "__main__":
    main()
