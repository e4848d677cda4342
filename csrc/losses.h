// The arguments of whole losses over all entities, in which no score matrix of all queries exists.
#pragma once

#include <cstdint>

namespace metasd {

// Queries (rows, width) and the place of their gradient; both dense fp32.
struct Left {
  const float* rows;
  float* grad;  // null: none wanted
};

// A table (rows, width) that is scored as `mask * table`. Its gradient is `grad_mask` times what the
// products give, assigned, or added to what a score matrix before it has put there.
struct Right {
  const float* table;
  const uint32_t* mask;  // null: all kept
  float* grad;           // null: none wanted
  const uint32_t* grad_mask;
  bool add;
};

// Which entries of a gradient in the scores are kept: those of magnitude `threshold` (times `scale`, or
// what a row of the meta gradient spans) as they are, and any other with a probability that makes its
// expectation right, at that magnitude. Chance is a function of key, query and entity.
struct Sampling {
  float threshold;  // 0: every entry is kept
  uint64_t key;
  int64_t first_query, first_entity;  // the numbers of the first row of queries, and of tables
};

struct LossArgs {
  Left lefts[3];
  Right rights[3];
  int64_t queries, entities, width;
  const int64_t* targets;
  const float* weight;        // per query, of its cross entropy; null: one
  const float* count;         // per query, of its distillation; null: one
  const float* multiplicity;  // how many entities each row of a table counts as; null: one
  float scale;          // of every gradient
  float* stats;         // (queries, k...Stats) as in passes.h: what the losses are made of
  int phase, threads;   // kGradient alone takes the statistics that it is given
  bool half;            // products of bf16 numbers, where the instruction set has them
  int64_t memory;       // bytes that scores may take
  Sampling sampling;
};

// The parameters of DistillationArgs and MetaArgs.
struct DistillationWeights {
  float temperature, difference_weight, logarithm_weight;
};
struct MetaWeights {
  float temperature, forward_weight, backward_weight;
};

// Whether this processor and its system have tile registers; the functions below may be called only then.
bool amx_supported();

// Scores: lefts[0] . rights[0].
void amx_cross_entropy(const LossArgs& args);
// Source: lefts[0] . rights[0]; pruned: lefts[1] . rights[1]. The source has a gradient or none.
void amx_distillation(const LossArgs& args, const DistillationWeights& loss);
// The same two, and the pruned model's derivative: lefts[2] . rights[1] + lefts[1] . rights[2].
void amx_meta(const LossArgs& args, const MetaWeights& loss);

}  // namespace metasd
