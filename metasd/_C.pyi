"""Compiled passes (csrc/module.cpp). Addresses are `Tensor.data_ptr()`, 0 for none."""

STATISTICS: int
GRADIENT: int
BOTH: int
OPENMP: bool
CUDA_ARCHS: str  # "80;90": what csrc/*.cu was compiled for; "" without CUDA

def isa() -> str: ...
def select_isa(name: str) -> bool: ...
def isa_supported(name: str) -> bool: ...
def bf16_products() -> bool: ...
def keep_freed_memory() -> bool: ...
def topk_mask(tables: list[tuple[int, int, int, int, int]], keep: int, threads: int) -> bool: ...
def topk_mask_rows(table: tuple[int, int, int, int, int], keep: int, threads: int) -> bool: ...
def count_magnitudes(
    table: tuple[int, int, int, int, int],
    low: int,
    shift: int,
    bins: int,
    counts: int,
    threads: int,
) -> bool: ...
def threshold_mask(
    table: tuple[int, int, int, int, int], threshold: int, ties: int, threads: int
) -> None: ...
def topk_mask_scratch(tables: int) -> int: ...
def topk_mask_cuda(
    tables: list[tuple[int, int, int, int, int]], keep: int, scratch: int, device: int, stream: int
) -> None: ...
def topk_mask_rows_cuda(
    table: tuple[int, int, int, int, int], keep: int, nan: int, device: int, stream: int
) -> None: ...
def cross_entropy(
    z: int,
    half: bool,
    rows: int,
    cols: int,
    stride: int,
    offset: int,
    targets: int,
    weight: int,
    multiplicity: int,
    scale: float,
    stats: int,
    phase: int,
    threads: int,
) -> None: ...
def distillation(
    zs: int,
    zp: int,
    half: bool,
    rows: int,
    cols: int,
    stride: int,
    offset: int,
    targets: int,
    weight: int,
    count: int,
    multiplicity: int,
    scale: float,
    temperature: float,
    difference_weight: float,
    logarithm_weight: float,
    source_gradient: bool,
    stats: int,
    phase: int,
    threads: int,
) -> None: ...
def meta(
    zs: int,
    zp: int,
    zdot: int,
    half: bool,
    rows: int,
    cols: int,
    stride: int,
    multiplicity: int,
    scale: float,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    stats: int,
    phase: int,
    threads: int,
) -> None: ...
def amx() -> bool: ...

_Lefts = list[tuple[int, int]]
_Rights = list[tuple[int, int, int, int, bool]]

class LossArgs:
    def __init__(
        self,
        *,
        lefts: list[tuple[int, int]],
        rights: list[tuple[int, int, int, int, bool]],
        queries: int,
        entities: int,
        width: int,
        targets: int,
        weight: int,
        count: int,
        multiplicity: int,
        scale: float,
        stats: int,
        phase: int,
        threads: int,
        half: bool,
        memory: int,
        threshold: float,
        key: int,
        first_query: int,
        first_entity: int,
    ) -> None: ...

def amx_cross_entropy(args: LossArgs) -> None: ...
def amx_distillation(args: LossArgs, weights: list[float]) -> None: ...
def amx_meta(args: LossArgs, weights: list[float]) -> None: ...
def strip_cross_entropy(args: LossArgs) -> None: ...
def strip_distillation(args: LossArgs, weights: list[float]) -> None: ...
def strip_meta(args: LossArgs, weights: list[float]) -> None: ...
def rank(
    z: int,
    half: bool,
    rows: int,
    cols: int,
    stride: int,
    offset: int,
    scores: int,
    targets: int,
    indptr: int,
    indices: int,
    greater: int,
    equal: int,
    threads: int,
) -> int: ...
def topk(
    z: int,
    half: bool,
    rows: int,
    cols: int,
    stride: int,
    offset: int,
    k: int,
    known_indptr: int,
    known_indices: int,
    scores: int,
    indices: int,
    last: bool,
    threads: int,
) -> int: ...
def cast_rows(
    source: int,
    to: int,
    half: bool,
    index: int,
    mask: int,
    rows: int,
    cols: int,
    from_stride: int,
    to_stride: int,
    threads: int,
) -> None: ...
def accumulate(
    to: int,
    source: int,
    half: bool,
    mask: int,
    rows: int,
    cols: int,
    add: bool,
    threads: int,
) -> None: ...
def accumulate_transposed(
    to: int,
    source: int,
    mask: int,
    rows: int,
    cols: int,
    from_stride: int,
    add: bool,
    threads: int,
) -> None: ...
def complex_product(
    to: int, x: int, y: int, rows: int, rank: int, conjugate: bool, threads: int
) -> None: ...
def dura(
    rows: tuple[int, int, int],
    gradients: tuple[int, int, int],
    penalty: int,
    count: int,
    rank: int,
    parts: int,
    scale: float,
    threads: int,
) -> None: ...

WEIGHT_FORMATS: dict[str, tuple[bool, int, list[float]]]

def quantize_rows(
    source: int,
    mask: int,
    to: int,
    scale: int,
    rows: int,
    cols: int,
    name: str,
    threads: int,
) -> None: ...
def adagrad_rows(
    rows: int,
    table: int,
    sums: int,
    index: int,
    grad: int,
    count: int,
    cols: int,
    lr: float,
    epsilon: float,
    threads: int,
) -> None: ...
def scatter_add(to: int, index: int, source: int, rows: int, cols: int, threads: int) -> None: ...

_CodedTable = tuple[int, int, int, int, int, int, int, int, int, int]

def engine_isa() -> str: ...
def select_engine(name: str) -> bool: ...
def engine_supported(name: str) -> bool: ...
def check_table(table: _CodedTable, threads: int) -> int: ...
def decode_rows(table: _CodedTable, rows: int, count: int, out: int) -> None: ...
def score_table(
    table: _CodedTable,
    queries: int,
    count_queries: int,
    first: int,
    count: int,
    rows: int,
    k: int,
    known_indptr: int,
    known_indices: int,
    inverse_temperature: float,
    scores: int,
    indices: int,
    logsumexp: int,
    threads: int,
) -> int: ...
def label_lines(text: int, size: int, count: int, starts: int) -> int: ...
def sort_labels(text: int, starts: int, count: int, field: int, order: int) -> int: ...
def repeated_label(text: int, starts: int, order: int, count: int, field: int) -> int: ...
