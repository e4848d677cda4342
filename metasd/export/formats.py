"""The tables of a model in the formats of other programs: npy, Parquet, word2vec, FAISS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metasd.compressed.model import CompressedModel
from metasd.compressed.table import CHUNK, Floats, Table
from metasd.errors import InputError, nearest
from metasd.files import check_new_folder, new_folder

FORMATS = ("npy", "parquet", "word2vec", "word2vec-binary", "faiss")
_LABELS = ("entities.tsv", "relations.tsv")
_NAMES = {
    "npy": ("entities.npy", "relations.npy", *_LABELS),
    "parquet": ("entities.parquet", "relations.parquet"),
    "word2vec": ("entities.txt", "relations.txt"),
    "word2vec-binary": ("entities.bin", "relations.bin"),
    "faiss": ("index.faiss", *_LABELS),
}
_INVERSE = "_inverse"  # as PyKEEN calls inverse relations
_SAMPLE = 100_000  # rows that a FAISS index is trained on, at most


def export(
    model: CompressedModel,
    file_format: str,
    out: str | os.PathLike[str],
    *,
    index: str = "Flat",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes what a model's tables decode to, fp32, as a folder: whole or not at all.

    Args:
        model: a compressed model; of a run, `run.answering(known=False)`.
        file_format: `npy`: arrays entities (roles * N, width) and relations (2R, width), inverse
            ones second, with label files: what `import_tables` reads. `parquet`: entities and
            relations in columns label (string), id (int64), embedding (fixed_size_list<float>).
            `word2vec`, `word2vec-binary`: entities and relations as gensim's
            `KeyedVectors.load_word2vec_format` reads them; spaces in labels become underscores.
            `faiss`: an inner-product index of the entities as answers, searched by
            `CompressedModel.query_vectors`, with label files.
            In Parquet and word2vec, inverse relations are called `<label>_inverse`, and an entity
            of CP is its row as a head followed by its row as a tail.
        out: the folder.
        index: the FAISS factory string.
        overwrite: replaces an older export in `out`.

    Returns:
        folder, format, numbers of rows, bytes, and of word2vec how many labels were changed (JSON).

    Raises:
        InputError: an unknown format or index, labels that become the same, FAISS is not
            installed, or there is something else at `out`.
    """
    out = Path(out)
    check_export(file_format, out, overwrite)
    record: dict[str, Any] = {
        "folder": str(out),
        "format": file_format,
        "entities": model.num_entities,
        "relations and inverse relations": 0 if file_format == "faiss" else model.relations.rows,
    }
    with new_folder(out, _all_names(), overwrite) as folder:
        if file_format == "npy":
            _write_npy(folder / "entities.npy", model.entities)
            _write_npy(folder / "relations.npy", model.relations)
        elif file_format == "parquet":
            for name, (labels, rows) in _tables(model).items():
                _write_parquet(folder / f"{name}.parquet", labels, rows)
        elif file_format == "faiss":
            _write_faiss(folder / "index.faiss", model, index)
        else:
            binary = file_format == "word2vec-binary"
            record["labels with spaces, now underscores"] = 0
            for name, (labels, rows) in _tables(model).items():
                words = _words(labels)
                changed = sum(word != label for word, label in zip(words, labels, strict=True))
                record["labels with spaces, now underscores"] += changed
                _write_word2vec(
                    folder / f"{name}.{'bin' if binary else 'txt'}", words, rows, binary
                )
        if _LABELS[0] in _NAMES[file_format]:
            model.entity_labels.text.tofile(folder / _LABELS[0])
            model.relation_labels.text.tofile(folder / _LABELS[1])
        sizes = [(folder / name).stat().st_size for name in _NAMES[file_format]]
    return {**record, "bytes": sum(sizes)}


def check_export(file_format: str, out: Path, overwrite: bool) -> None:
    """Raises InputError where `export` would, as far as that shows without a model."""
    if file_format not in FORMATS:
        raise InputError(
            f"format must be one of {', '.join(FORMATS)}; got {file_format!r}"
            f"{nearest(file_format, FORMATS)}"
        )
    if file_format == "faiss":
        _faiss()
    check_new_folder(out, _all_names(), overwrite)


def _all_names() -> set[str]:
    return {name for names in _NAMES.values() for name in names}


def _tables(model: CompressedModel) -> dict[str, tuple[list[str], Iterator[Floats]]]:
    """Labels, and rows a few thousand at a time, of entities and of relations with inverses."""
    relations = list(model.relation_labels)
    inverses = [label + _INVERSE for label in relations]
    return {
        "entities": (list(model.entity_labels), _entity_rows(model)),
        "relations": (relations + inverses, model.relations.chunks()),
    }


def _entity_rows(model: CompressedModel) -> Iterator[Floats]:
    """fp32 (n, roles * width): every entity once."""
    offsets = range(0, model.entities.rows, model.num_entities)
    for start in range(0, model.num_entities, CHUNK):
        ids = np.arange(start, min(start + CHUNK, model.num_entities))
        yield np.concatenate([model.entities.decode(offset + ids) for offset in offsets], axis=1)


def _write_npy(path: Path, table: Table) -> None:
    shape = (table.rows, table.width)
    out = np.lib.format.open_memmap(path, "w+", np.dtype(np.float32), shape)
    start = 0
    for part in table.chunks():
        out[start : start + len(part)] = part
        start += len(part)
    out.flush()


def _write_parquet(path: Path, labels: list[str], rows: Iterator[Floats]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, start = None, 0
    try:
        for part in rows:
            stop = start + len(part)
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
            columns = {
                "label": pa.array(labels[start:stop], pa.string()),
                "id": pa.array(range(start, stop), pa.int64()),
                "embedding": embedding,
            }
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            start = stop
    finally:
        if writer is not None:
            writer.close()


def _words(labels: list[str]) -> list[str]:
    """Labels with underscores for spaces, which end a word in word2vec files.

    Raises:
        InputError: two labels become the same.
    """
    found: dict[str, str] = {}
    for label in labels:
        word = label.replace(" ", "_")
        if word in found:
            raise InputError(
                f'"{found[word]}" and "{label}" are both "{word}" in word2vec format, whose words '
                "have no spaces and must differ; take parquet or npy"
            )
        found[word] = label
    return list(found)


def _write_word2vec(path: Path, words: list[str], rows: Iterator[Floats], binary: bool) -> None:
    names = iter(words)
    with path.open("wb") as file:
        for i, part in enumerate(rows):
            if i == 0:
                file.write(f"{len(words)} {part.shape[1]}\n".encode())
            line = " ".join(["%.9g"] * part.shape[1])  # 9 digits give every fp32 back
            for row in part:
                numbers = row.astype("<f4").tobytes() if binary else (line % tuple(row)).encode()
                file.write(next(names).encode() + b" " + numbers + b"\n")


def _write_faiss(path: Path, model: CompressedModel, factory: str) -> None:
    """The rows of tails, whose inner products with query vectors are scores."""
    faiss = _faiss()
    count, first = model.num_entities, model.tail_offset
    try:
        index = faiss.index_factory(model.entities.width, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            sample = np.random.default_rng(0).permutation(count)[:_SAMPLE]
            index.train(model.entities.decode(first + np.sort(sample)))
        for start in range(0, count, CHUNK):
            ids = np.arange(start, min(start + CHUNK, count))
            index.add(model.entities.decode(first + ids))
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition(": ")[2]
        raise InputError(
            f"FAISS makes no index {factory!r} of {count} rows, {model.entities.width} wide "
            f"({reason})"
        ) from None


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise InputError('faiss is not installed: pip install "metasd[faiss]"') from None
    return faiss
