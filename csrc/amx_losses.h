// Losses over all entities in which no score matrix exists, for processors that multiply bf16 tiles.
#pragma once

#include <cstdint>

namespace metasd {

// Queries (rows, width) and the place of their gradient; both dense fp32.
struct AmxLeft {
  const float* rows;
  float* grad;  // null: none wanted
};

// A table (rows, width) that is scored as `mask * table`. Its gradient is `grad_mask` times what the
// products give, assigned, or added to what a score matrix before it has put there.
struct AmxRight {
  const float* table;
  const uint32_t* mask;  // null: all kept
  float* grad;           // null: none wanted
  const uint32_t* grad_mask;
  bool add;
};

struct AmxArgs {
  AmxLeft lefts[3];
  AmxRight rights[3];
  int64_t queries, entities, width;
  const int64_t* targets;
  const float* weight;  // per query, or null
  float scale;          // of every gradient
  float* stats;         // (queries, k...Stats) as in passes.h: what the losses are made of
  int phase, threads;   // kGradient alone takes the statistics that it is given
};

// The parameters of DistillationArgs and MetaArgs.
struct AmxDistillation {
  float temperature, difference_weight, logarithm_weight;
};
struct AmxMeta {
  float temperature, forward_weight, backward_weight;
};

// Whether this processor and its system have tile registers; the rest may be called only then.
bool amx_supported();

// Scores: lefts[0] . rights[0].
void amx_cross_entropy(const AmxArgs& args);
// Source: lefts[0] . rights[0]; pruned: lefts[1] . rights[1]. The source has a gradient or none.
void amx_distillation(const AmxArgs& args, const AmxDistillation& loss);
// The same two, and the pruned model's derivative: lefts[2] . rights[1] + lefts[1] . rights[2].
void amx_meta(const AmxArgs& args, const AmxMeta& loss);

}  // namespace metasd
