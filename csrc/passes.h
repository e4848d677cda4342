// The arguments of row passes, and the table of passes of one instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "losses.h"

namespace metasd {

using bf16 = uint16_t;  // the upper half of a float's bits

enum Phase { kStatistics = 1, kGradient = 2, kBoth = 3 };

constexpr int kCrossEntropyStats = 3;
constexpr int kDistillationStats = 10;
constexpr int kMetaStats = 8;  // the last two only where the gradient is sampled

// Score blocks are (rows, cols) with `stride` elements between rows, bf16 if `half` else fp32; their
// first column is entity `offset`. `stats` is (rows, k...Stats), `scale` the factor of every gradient.
struct CrossEntropyArgs {
  void* z;
  bool half;
  int64_t rows, cols, stride, offset;
  const int64_t* targets;
  const float* weight;        // per row, or null
  const float* multiplicity;  // of the block's columns (see LossArgs), or null
  float scale;
  float* stats;
  int phase, threads;
};

struct DistillationArgs {
  void *zs, *zp;
  bool half;
  int64_t rows, cols, stride, offset;
  const int64_t* targets;
  const float *weight, *count;  // per row, of the cross entropy and of the distillation, or null
  const float* multiplicity;  // of the block's columns (see LossArgs), or null
  float scale, temperature;
  float difference_weight, logarithm_weight;  // of (p_p - p_s) and of p (log ratio - KL)
  bool source_gradient;
  float* stats;
  int phase, threads;
};

struct MetaArgs {
  void* zs;
  const void *zp, *zdot;
  bool half;
  int64_t rows, cols, stride;
  const float* multiplicity;  // of the block's columns (see LossArgs), or null
  float scale, temperature, forward_weight, backward_weight;
  float* stats;
  int phase, threads;
};

struct RankArgs {
  const void* z;
  bool half;
  int64_t rows, cols, stride, offset;
  const float* scores;  // the target's score of every row
  const int64_t *targets, *indptr, *indices;
  int64_t *greater, *equal;
  int threads;
};

struct TopkArgs {
  void* z;
  bool half;
  int64_t rows, cols, stride, offset, k;
  const int64_t *known_indptr, *known_indices;
  float* scores;     // (rows, k), -inf before the first block
  int64_t* indices;  // (rows, k), -1 before the first block
  bool last;         // sort after this block
  int threads;
};

struct CastArgs {
  const float* from;
  void* to;
  bool half;
  const int64_t* index;  // null: every row in order
  const uint32_t* mask;  // null: all kept
  int64_t rows, cols, words, from_stride, to_stride;
  int threads;
};

struct AccumulateArgs {
  float* to;
  const void* from;
  bool half;
  const uint32_t* mask;  // null: all kept
  int64_t rows, cols, words;
  bool add;
  int threads;
};

// from is (cols, rows) bf16 with `from_stride` elements between its rows, to is (rows, cols).
struct TransposeArgs {
  float* to;
  const bf16* from;
  const uint32_t* mask;  // null: all kept
  int64_t rows, cols, words, from_stride;
  bool add;
  int threads;
};

struct ComplexArgs {
  float* to;
  const float *x, *y;
  int64_t rows, rank;
  bool conjugate;
  int threads;
};

// Rows of `parts` times `rank` numbers; (rows,) penalties and the scaled gradients come out.
struct DuraArgs {
  const float *head, *relation, *tail;
  float *grad_head, *grad_relation, *grad_tail, *penalty;
  int64_t rows, rank, parts;
  float scale;
  int threads;
};

// The levels that rows are rounded to: whole steps -levels .. levels, or the odd ones of them without
// `zero`. The `count` sizes of a step are tried, in mean magnitudes of the row, after the one that has the largest
// magnitude as its last level (not where there is one level: it would be all that is kept).
struct WeightFormat {
  const char* name;
  bool zero;
  int levels, count;
  float steps[4];
};

constexpr WeightFormat kWeightFormats[] = {
    {"int8", true, 127, 0, {}},
    {"int4", true, 7, 4, {0.40f, 0.46f, 0.54f, 0.64f}},
    {"int3", false, 7, 4, {0.31f, 0.35f, 0.40f, 0.46f}},
    {"int2", false, 3, 3, {0.56f, 0.625f, 0.70f}},
    {"ternary", true, 1, 1, {1.4f}},
};

struct QuantizeArgs {
  const float* from;
  const uint32_t* mask;  // null: all kept
  float* to;
  float* scale;  // per row, or null
  int64_t rows, cols, words;
  const WeightFormat* format;
  int threads;
};

// `index` names the rows of `table` and `sums`, each at most once, that `rows` and `grad` (count, cols)
// are of.
struct AdagradArgs {
  float *rows, *table, *sums;
  const int64_t* index;
  const float* grad;
  int64_t count, cols;
  float lr, epsilon;
  int threads;
};

struct ScatterArgs {
  float* to;
  const int64_t* index;
  const float* from;
  int64_t rows, cols;
  int threads;
};

// The bits of a float but for its sign: they order like the magnitudes.
constexpr uint32_t kMagnitudeBits = 0x7fffffffu;

inline uint32_t magnitude_of(const float* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits & kMagnitudeBits;
}

// A weight whose magnitude lies inside a bracket, and its bit in the mask.
struct Candidate {
  uint32_t magnitude, bit;
  uint32_t* word;
};

// Weights by their magnitude bits: counts above `high`, at it, and at `low`; those between are stored
// as far as there is room. (Where low == high, all counts of that value go to `at_low`.)
struct MagnitudeScan {
  uint32_t low, high;
  int64_t above, at_high, at_low;
  Candidate* between;
  int64_t found, room;
  bool nan;
};

// Counts of the magnitudes from `low` on in `bins` bins, each 2^shift of their bits wide.
struct MagnitudeCounts {
  uint32_t low;
  int shift;
  uint32_t bins;
  int64_t* counts;
  bool nan;
};

struct Passes {
  const char* isa;
  bool amx;    // whole losses on tile registers (losses.h), beside the passes
  void (*cross_entropy)(const CrossEntropyArgs&);
  void (*distillation)(const DistillationArgs&);
  void (*meta)(const MetaArgs&);
  void (*strip_cross_entropy)(const LossArgs&);
  void (*strip_distillation)(const LossArgs&, const DistillationWeights&);
  void (*strip_meta)(const LossArgs&, const MetaWeights&);
  int64_t (*rank)(const RankArgs&);
  int64_t (*topk)(const TopkArgs&);
  void (*cast_rows)(const CastArgs&);
  void (*accumulate)(const AccumulateArgs&);
  void (*accumulate_transposed)(const TransposeArgs&);
  void (*complex_product)(const ComplexArgs&);
  void (*dura)(const DuraArgs&);
  void (*quantize_rows)(const QuantizeArgs&);
  void (*adagrad_rows)(const AdagradArgs&);
  void (*scatter_add)(const ScatterArgs&);
  void (*scan_magnitudes)(const float* weights, int64_t count, MagnitudeScan& scan, uint32_t* mask);
  void (*write_mask)(const float* weights, int64_t count, uint32_t threshold, int64_t& ties,
                     uint32_t* mask);
  void (*count_magnitudes)(const float* weights, int64_t count, MagnitudeCounts& into, uint32_t* mask);
};

// The passes in use: the best instruction set of this processor, or what select_isa() named.
const Passes& passes();
bool select_isa(const char* name);
bool isa_supported(const char* name);

}  // namespace metasd
