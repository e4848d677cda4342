// Compiles the row passes once per instruction set and chooses among them at run time.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "losses.h"
#include "parallel.h"
#include "passes.h"

#define METASD_LEVEL 0
#define METASD_INLINE static inline __attribute__((always_inline))
#define METASD_INLINE_MEMBER inline __attribute__((always_inline))
#define METASD_LAMBDA __attribute__((always_inline))
#define METASD_PASSES(name)                                                                       \
  {name, false, cross_entropy, distillation, meta, strip_cross_entropy, strip_distillation,       \
   strip_meta, rank, topk, cast_rows, accumulate, accumulate_transposed, complex_product, dura,   \
   quantize_rows, adagrad_rows, scatter_add, scan_magnitudes, write_mask, count_magnitudes}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define METASD_X86 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // inside the compiler's own intrinsics
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi2,avx512bf16,prefer-vector-width=512")
#undef METASD_LEVEL
#define METASD_LEVEL 513
namespace metasd::avx512bf16 {
namespace {
#include "simd.inl"

#include "magnitudes.inl"
#include "ranking.inl"
#include "loss_passes.inl"
#include "tables.inl"
#include "losses.inl"
#include "strips.inl"
}  // namespace
const Passes kPasses = METASD_PASSES("avx512bf16");
}  // namespace metasd::avx512bf16
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi2,prefer-vector-width=512")
#undef METASD_LEVEL
#define METASD_LEVEL 512
namespace metasd::avx512 {
namespace {
#include "simd.inl"

#include "magnitudes.inl"
#include "ranking.inl"
#include "loss_passes.inl"
#include "tables.inl"
#include "losses.inl"
#include "strips.inl"
}  // namespace
const Passes kPasses = METASD_PASSES("avx512");
}  // namespace metasd::avx512
#pragma GCC pop_options

#pragma GCC diagnostic pop

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2")
#undef METASD_LEVEL
#define METASD_LEVEL 256
namespace metasd::avx2 {
namespace {
#include "simd.inl"

#include "magnitudes.inl"
#include "ranking.inl"
#include "loss_passes.inl"
#include "tables.inl"
#include "losses.inl"
#include "strips.inl"
}  // namespace
const Passes kPasses = METASD_PASSES("avx2");
}  // namespace metasd::avx2
#pragma GCC pop_options
#endif

#undef METASD_LEVEL
#define METASD_LEVEL 0
namespace metasd::portable {
namespace {
#include "simd.inl"

#include "magnitudes.inl"
#include "ranking.inl"
#include "loss_passes.inl"
#include "tables.inl"
#include "losses.inl"
#include "strips.inl"
}  // namespace
const Passes kPasses = METASD_PASSES("portable");
}  // namespace metasd::portable

namespace metasd {
namespace {

const Passes* find(const char* name) {
#ifdef METASD_X86
  __builtin_cpu_init();
  if (!std::strcmp(name, "amx")) {
    static const Passes with_tiles = [] {
      Passes passes = avx512bf16::kPasses;
      passes.isa = "amx", passes.amx = true;
      return passes;
    }();
    return find("avx512bf16") && amx_supported() ? &with_tiles : nullptr;
  }
  const bool half = !std::strcmp(name, "avx512bf16");
  if (half && !__builtin_cpu_supports("avx512bf16")) return nullptr;
  if (half || !std::strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")
               ? (half ? &avx512bf16::kPasses : &avx512::kPasses)
               : nullptr;
  if (!std::strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::kPasses
                                                                           : nullptr;
#endif
  return std::strcmp(name, "portable") ? nullptr : &portable::kPasses;
}

const Passes* best() {
  if (const char* wanted = std::getenv("METASD_ISA"))
    if (const Passes* found = find(wanted)) return found;
  for (const char* name : {"amx", "avx512bf16", "avx512", "avx2"})
    if (const Passes* found = find(name)) return found;
  return &portable::kPasses;
}

const Passes*& selected() {
  static const Passes* current = best();
  return current;
}

}  // namespace

const Passes& passes() { return *selected(); }

bool isa_supported(const char* name) { return find(name) != nullptr; }

bool select_isa(const char* name) {
  const Passes* found = find(name);
  if (found) selected() = found;
  return found != nullptr;
}

}  // namespace metasd
