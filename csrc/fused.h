// Losses over all entities in which no score matrix exists, for processors that multiply bf16 tiles.
#pragma once

#include <cstdint>

namespace metasd {

// Queries (rows, width) and the place of their gradient; both dense fp32.
struct FusedLeft {
  const float* rows;
  float* grad;  // null: none wanted
};

// A table (rows, width) that is scored as `mask * table`. Its gradient is `grad_mask` times what the
// products give, assigned, or added to what a score matrix before it has put there.
struct FusedRight {
  const float* table;
  const uint32_t* mask;  // null: all kept
  float* grad;           // null: none wanted
  const uint32_t* grad_mask;
  bool add;
};

struct FusedArgs {
  FusedLeft lefts[3];
  FusedRight rights[3];
  int64_t queries, entities, width;
  const int64_t* targets;
  const float* weight;  // per query, or null
  float scale;          // of every gradient
  float* stats;         // (queries, k...Stats) as in passes.h: what the losses are made of
  int phase, threads;   // kGradient alone takes the statistics that it is given
};

// The parameters of DistillationArgs and MetaArgs.
struct FusedDistillation {
  float temperature, difference_weight, logarithm_weight;
};
struct FusedMeta {
  float temperature, forward_weight, backward_weight;
};

// Whether this processor and its system have tile registers; the rest may be called only then.
bool fused_supported();

// Scores: lefts[0] . rights[0].
void fused_cross_entropy(const FusedArgs& args);
// Source: lefts[0] . rights[0]; student: lefts[1] . rights[1]. The source learns if it has a gradient.
void fused_distillation(const FusedArgs& args, const FusedDistillation& loss);
// The same two, and the student's derivative: lefts[2] . rights[1] + lefts[1] . rights[2].
void fused_meta(const FusedArgs& args, const FusedMeta& loss);

}  // namespace metasd
