// metasd._C: the passes of csrc/ for Python. Arguments are raw addresses, sizes and strides; the
// callers in kernels/ have checked dtypes, shapes and devices. The interpreter lock is released.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <array>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "compressed_table.h"
#include "losses.h"
#include "labels.h"
#include "passes.h"
#include "topk_mask.h"

namespace py = pybind11;
using namespace metasd;

namespace {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using TableTuple = std::tuple<Address, Address, int64_t, int64_t, int64_t>;

MaskedTable table_of(const TableTuple& t) {
  const auto& [weights, mask, rows, cols, stride] = t;
  return {at<float>(weights), at<uint32_t>(mask), rows, cols, stride};
}

std::vector<MaskedTable> tables_of(const std::vector<TableTuple>& tuples) {
  std::vector<MaskedTable> tables;
  for (const TableTuple& t : tuples) tables.push_back(table_of(t));
  return tables;
}

using LeftTuple = std::tuple<Address, Address>;
using RightTuple = std::tuple<Address, Address, Address, Address, bool>;

LossArgs loss_args(const std::vector<LeftTuple>& lefts, const std::vector<RightTuple>& rights,
                   int64_t queries, int64_t entities, int64_t width, Address targets, Address weight,
                   Address count, Address multiplicity, float scale, Address stats, int phase, int threads, bool half, int64_t memory,
                   float threshold, int64_t key, int64_t first_query, int64_t first_entity) {
  LossArgs args{};
  for (size_t i = 0; i < lefts.size() && i < 3; ++i) {
    const auto& [rows, grad] = lefts[i];
    args.lefts[i] = {at<float>(rows), at<float>(grad)};
  }
  for (size_t i = 0; i < rights.size() && i < 3; ++i) {
    const auto& [table, mask, grad, grad_mask, add] = rights[i];
    args.rights[i] = {at<float>(table), at<uint32_t>(mask), at<float>(grad), at<uint32_t>(grad_mask), add};
  }
  args.queries = queries, args.entities = entities, args.width = width;
  args.targets = at<int64_t>(targets), args.weight = at<float>(weight);
  args.count = at<float>(count);
  args.multiplicity = at<float>(multiplicity), args.scale = scale;
  args.stats = at<float>(stats), args.phase = phase, args.threads = threads;
  args.half = half, args.memory = memory;
  args.sampling = {threshold, static_cast<uint64_t>(key), first_query, first_entity};
  return args;
}

using CodedTuple = std::tuple<int, int, int64_t, int64_t, Address, Address, int64_t, Address, int64_t,
                              Address>;

CodedTable coded(const CodedTuple& tuple) {
  const auto& [code, kind, rows, width, indptr, columns, column_bytes, values, value_bytes, scale] =
      tuple;
  return {static_cast<Columns>(code), static_cast<Values>(kind), rows, width, at<uint32_t>(indptr),
          at<uint8_t>(columns), column_bytes, at<uint8_t>(values), value_bytes, at<float>(scale)};
}

bool keep_freed_memory() {
#ifdef __GLIBC__
  return mallopt(M_MMAP_THRESHOLD, 1 << 30) && mallopt(M_TRIM_THRESHOLD, -1);
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled passes of metasd: magnitude masks, row passes over scores, table passes.";
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  m.attr("STATISTICS") = static_cast<int>(kStatistics);
  m.attr("GRADIENT") = static_cast<int>(kGradient);
  m.attr("BOTH") = static_cast<int>(kBoth);
#ifdef _OPENMP
  m.attr("OPENMP") = true;
#else
  m.attr("OPENMP") = false;
#endif

  m.def("isa", [] { return passes().isa; }, "The instruction set in use.");
  m.def("select_isa", [](const std::string& name) { return select_isa(name.c_str()); });
  m.def("isa_supported", [](const std::string& name) { return isa_supported(name.c_str()); });
  m.def("bf16_products", [] {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    return __builtin_cpu_supports("avx512bf16") != 0;
#else
    return false;
#endif
  }, "Whether the processor multiplies bf16 numbers faster than fp32 ones (AVX512-BF16).");
  m.def("keep_freed_memory", keep_freed_memory,
        "Lets the C allocator keep large freed blocks instead of returning them to the system.");

  m.def("topk_mask", [](const std::vector<TableTuple>& tables, int64_t keep, int threads) {
    return topk_mask(tables_of(tables), keep, threads);
  }, unlocked);
  m.def("topk_mask_rows", [](const TableTuple& table, int64_t keep, int threads) {
    return topk_mask_rows(table_of(table), keep, threads);
  }, unlocked);
  m.def("count_magnitudes", [](const TableTuple& table, uint32_t low, int shift, int bins,
                               Address counts, int threads) {
    return count_magnitudes(table_of(table), low, shift, bins, at<int64_t>(counts), threads);
  }, unlocked);
  m.def("threshold_mask", [](const TableTuple& table, uint32_t threshold, Address ties, int threads) {
    threshold_mask(table_of(table), threshold, at<int64_t>(ties), threads);
  }, unlocked);
#ifdef METASD_CUDA_ARCHS
  m.attr("CUDA_ARCHS") = METASD_CUDA_ARCHS;
  m.def("topk_mask_scratch", topk_mask_scratch);
  m.def("topk_mask_cuda", [](const std::vector<TableTuple>& tables, int64_t keep, Address scratch,
                             int device, Address stream) {
    topk_mask_cuda(tables_of(tables), keep, at<int64_t>(scratch), device, at<void>(stream));
  }, unlocked);
  m.def("topk_mask_rows_cuda", [](const TableTuple& table, int64_t keep, Address nan, int device,
                                  Address stream) {
    topk_mask_rows_cuda(table_of(table), keep, at<int64_t>(nan), device, at<void>(stream));
  }, unlocked);
#else
  m.attr("CUDA_ARCHS") = "";  // built without CUDA
#endif

  m.def("cross_entropy", [](Address z, bool half, int64_t rows, int64_t cols, int64_t stride,
                            int64_t offset, Address targets, Address weight, Address multiplicity,
                            float scale, Address stats, int phase, int threads) {
    passes().cross_entropy({at<void>(z), half, rows, cols, stride, offset, at<int64_t>(targets),
                            at<float>(weight), at<float>(multiplicity), scale, at<float>(stats), phase,
                            threads});
  }, unlocked);
  m.def("distillation", [](Address zs, Address zp, bool half, int64_t rows, int64_t cols,
                           int64_t stride, int64_t offset, Address targets, Address weight,
                           Address count, Address multiplicity, float scale, float temperature, float difference_weight,
                           float logarithm_weight, bool source_gradient, Address stats, int phase,
                           int threads) {
    passes().distillation({at<void>(zs), at<void>(zp), half, rows, cols, stride, offset,
                           at<int64_t>(targets), at<float>(weight), at<float>(count),
                           at<float>(multiplicity), scale, temperature, difference_weight, logarithm_weight, source_gradient, at<float>(stats),
                           phase, threads});
  }, unlocked);
  m.def("meta", [](Address zs, Address zp, Address zdot, bool half, int64_t rows, int64_t cols,
                   int64_t stride, Address multiplicity, float scale, float temperature,
                   float forward_weight, float backward_weight, Address stats, int phase, int threads) {
    passes().meta({at<void>(zs), at<void>(zp), at<void>(zdot), half, rows, cols, stride,
                   at<float>(multiplicity), scale, temperature, forward_weight, backward_weight, at<float>(stats), phase, threads});
  }, unlocked);
  m.def("amx", [] { return passes().amx; },
        "Whether whole losses run on tile registers (AMX) in the instruction set in use.");
  py::class_<LossArgs>(m, "LossArgs", "What whole losses are told; see csrc/losses.h.")
      .def(py::init(&loss_args), py::kw_only(), py::arg("lefts"), py::arg("rights"), py::arg("queries"),
           py::arg("entities"), py::arg("width"), py::arg("targets"), py::arg("weight"),
           py::arg("count"), py::arg("multiplicity"), py::arg("scale"),
           py::arg("stats"), py::arg("phase"), py::arg("threads"), py::arg("half"), py::arg("memory"),
           py::arg("threshold"), py::arg("key"), py::arg("first_query"), py::arg("first_entity"));
  m.def("amx_cross_entropy", amx_cross_entropy, unlocked);
  m.def("amx_distillation", [](const LossArgs& args, std::array<float, 3> weights) {
    amx_distillation(args, {weights[0], weights[1], weights[2]});
  }, unlocked);
  m.def("amx_meta", [](const LossArgs& args, std::array<float, 3> weights) {
    amx_meta(args, {weights[0], weights[1], weights[2]});
  }, unlocked);
  m.def("strip_cross_entropy", [](const LossArgs& args) { passes().strip_cross_entropy(args); }, unlocked);
  m.def("strip_distillation", [](const LossArgs& args, std::array<float, 3> weights) {
    passes().strip_distillation(args, {weights[0], weights[1], weights[2]});
  }, unlocked);
  m.def("strip_meta", [](const LossArgs& args, std::array<float, 3> weights) {
    passes().strip_meta(args, {weights[0], weights[1], weights[2]});
  }, unlocked);
  m.def("rank", [](Address z, bool half, int64_t rows, int64_t cols, int64_t stride, int64_t offset,
                   Address scores, Address targets, Address indptr, Address indices, Address greater,
                   Address equal, int threads) {
    return passes().rank({at<void>(z), half, rows, cols, stride, offset, at<float>(scores),
                          at<int64_t>(targets), at<int64_t>(indptr), at<int64_t>(indices),
                          at<int64_t>(greater), at<int64_t>(equal), threads});
  }, unlocked);
  m.def("topk", [](Address z, bool half, int64_t rows, int64_t cols, int64_t stride, int64_t offset,
                   int64_t k, Address known_indptr, Address known_indices, Address scores,
                   Address indices, bool last, int threads) {
    return passes().topk({at<void>(z), half, rows, cols, stride, offset, k,
                          at<int64_t>(known_indptr), at<int64_t>(known_indices), at<float>(scores),
                          at<int64_t>(indices), last, threads});
  }, unlocked);
  m.def("cast_rows", [](Address from, Address to, bool half, Address index, Address mask,
                        int64_t rows, int64_t cols, int64_t from_stride, int64_t to_stride,
                        int threads) {
    passes().cast_rows({at<float>(from), at<void>(to), half, at<int64_t>(index), at<uint32_t>(mask),
                        rows, cols, (cols + 31) / 32, from_stride, to_stride, threads});
  }, unlocked);
  m.def("accumulate", [](Address to, Address from, bool half, Address mask, int64_t rows,
                         int64_t cols, bool add, int threads) {
    passes().accumulate({at<float>(to), at<void>(from), half, at<uint32_t>(mask), rows, cols,
                         (cols + 31) / 32, add, threads});
  }, unlocked);
  m.def("accumulate_transposed", [](Address to, Address from, Address mask, int64_t rows, int64_t cols,
                                    int64_t from_stride, bool add, int threads) {
    passes().accumulate_transposed({at<float>(to), at<bf16>(from), at<uint32_t>(mask), rows, cols,
                                    (cols + 31) / 32, from_stride, add, threads});
  }, unlocked);
  m.def("complex_product", [](Address to, Address x, Address y, int64_t rows, int64_t rank,
                              bool conjugate, int threads) {
    passes().complex_product(
        {at<float>(to), at<float>(x), at<float>(y), rows, rank, conjugate, threads});
  }, unlocked);
  m.def("dura", [](std::array<Address, 3> rows, std::array<Address, 3> gradients, Address penalty,
                   int64_t count, int64_t rank, int64_t parts, float scale, int threads) {
    passes().dura({at<float>(rows[0]), at<float>(rows[1]), at<float>(rows[2]),
                   at<float>(gradients[0]), at<float>(gradients[1]), at<float>(gradients[2]),
                   at<float>(penalty), count, rank, parts, scale, threads});
  }, unlocked);
  py::dict formats;
  for (const WeightFormat& format : kWeightFormats)
    formats[format.name] = py::make_tuple(
        format.zero, format.levels,
        std::vector<float>(format.steps, format.steps + format.count));
  m.attr("WEIGHT_FORMATS") = formats;
  m.def("quantize_rows", [](Address from, Address mask, Address to, Address scale, int64_t rows,
                            int64_t cols, const std::string& name, int threads) {
    const auto* format = std::find_if(std::begin(kWeightFormats), std::end(kWeightFormats),
                                    [&](const WeightFormat& f) { return name == f.name; });
    if (format == std::end(kWeightFormats))
      throw std::invalid_argument("no weight format is called " + name);
    passes().quantize_rows({at<float>(from), at<uint32_t>(mask), at<float>(to), at<float>(scale), rows,
                            cols, (cols + 31) / 32, format, threads});
  }, unlocked);
  m.def("adagrad_rows", [](Address rows, Address table, Address sums, Address index, Address grad,
                           int64_t count, int64_t cols, float lr, float epsilon, int threads) {
    passes().adagrad_rows({at<float>(rows), at<float>(table), at<float>(sums), at<int64_t>(index),
                           at<float>(grad), count, cols, lr, epsilon, threads});
  }, unlocked);
  m.def("scatter_add", [](Address to, Address index, Address from, int64_t rows, int64_t cols,
                          int threads) {
    passes().scatter_add({at<float>(to), at<int64_t>(index), at<float>(from), rows, cols, threads});
  }, unlocked);

  m.def("engine_isa", [] { return engine().isa; }, "The instruction set of the compressed engine.");
  m.def("select_engine", [](const std::string& name) { return select_engine(name.c_str()); });
  m.def("engine_supported", [](const std::string& name) { return engine_supported(name.c_str()); });
  m.def("check_table", [](const CodedTuple& table, int threads) {
    return engine().check(coded(table), threads);
  }, unlocked);
  m.def("decode_rows", [](const CodedTuple& table, Address rows, int64_t count, Address out) {
    engine().decode(coded(table), at<int64_t>(rows), count, at<float>(out));
  }, unlocked);
  m.def("score_table", [](const CodedTuple& table, Address queries, int64_t count_queries,
                          int64_t first, int64_t count, Address rows, int64_t k,
                          Address known_indptr, Address known_indices, float inverse_temperature,
                          Address scores, Address indices, Address logsumexp, int threads) {
    return engine().score({coded(table), at<float>(queries), count_queries, first, count,
                           at<int64_t>(rows), k, at<int64_t>(known_indptr),
                           at<int64_t>(known_indices), inverse_temperature, at<float>(scores),
                           at<int64_t>(indices), at<float>(logsumexp), threads});
  }, unlocked);
  m.def("label_lines", [](Address text, int64_t size, int64_t count, Address starts) {
    return label_lines(at<char>(text), size, count, at<uint32_t>(starts));
  }, unlocked);
  m.def("sort_labels", [](Address text, Address starts, int64_t count, int field, Address order) {
    return sort_labels(at<char>(text), at<uint32_t>(starts), count, field, at<uint32_t>(order));
  }, unlocked);
  m.def("repeated_label", [](Address text, Address starts, Address order, int64_t count, int field) {
    return repeated_label(at<char>(text), at<uint32_t>(starts), at<uint32_t>(order), count, field);
  }, unlocked);
}
