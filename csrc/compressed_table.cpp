// Compiles the engine once per instruction set and chooses among them at run time.

#include "compressed_table.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "parallel.h"
#include "passes.h"
#include "tiles.h"

#define METASD_INLINE static inline __attribute__((always_inline))
#define METASD_INLINE_MEMBER inline __attribute__((always_inline))
#define METASD_LAMBDA __attribute__((always_inline))
#define METASD_LEVEL 0
#define METASD_VNNI 0
#define METASD_TILES 0

namespace metasd {
namespace {

// std::vector aligned for whole vectors whatever the instruction set of its caller.
template <class T>
struct WideAllocator {
  using value_type = T;
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* from, size_t) { ::operator delete(from, std::align_val_t{64}); }
  bool operator==(const WideAllocator&) const { return true; }
  bool operator!=(const WideAllocator&) const { return false; }
};

// A block of scores stays in the second-level cache between its making and its reading.
constexpr int64_t kBlockBytes = 256 << 10;

// A running sum of sixteen bytes in four products: of part p, lane i takes the bytes 4 p .. 4 p + 3
// that are not past i.
struct RunningOnes {
  alignas(64) int8_t of[4][64];
  constexpr RunningOnes() : of() {
    for (int part = 0; part < 4; ++part)
      for (int lane = 0; lane < 16; ++lane)
        for (int byte = 0; byte < 4; ++byte) of[part][4 * lane + byte] = 4 * part + byte <= lane;
  }
};
[[maybe_unused]] constexpr RunningOnes kRunningOnes;

constexpr int64_t value_bits(Values kind) {
  switch (kind) {
    case Values::kF32: return 32;
    case Values::kF16: case Values::kBF16: return 16;
    case Values::kI8: case Values::kU8: return 8;
    case Values::kU4: return 4;
    case Values::kHalf3: return 3;
    case Values::kHalf2: case Values::kU2: return 2;
  }
  return 0;
}

// What is added to whole numbers; of halves, to the whole number below.
constexpr int code_offset(Values kind) {
  switch (kind) {
    case Values::kU8: return 128;
    case Values::kU4: return 8;
    case Values::kHalf3: return 4;
    case Values::kHalf2: return 2;
    default: return 1;
  }
}

constexpr bool halves(Values kind) { return kind == Values::kHalf3 || kind == Values::kHalf2; }

// Bytes of a row of kAll.
int64_t row_bytes(const CodedTable& t) {
  if (t.kind == Values::kHalf3) return 3 * ((t.width + 7) / 8);
  return (t.width * value_bits(t.kind) + 7) / 8;
}

// The best k of what every thread found, each (queries, k) with -1 where there was no more.
void merge_best(const ScoreArgs& a, const std::vector<float>& scores,
                const std::vector<int64_t>& indices, int threads) {
  const int64_t size = a.count_queries * a.k;
  std::vector<std::pair<float, int64_t>> found;
  for (int64_t query = 0; query < a.count_queries; ++query) {
    found.clear();
    for (int thread = 0; thread < threads; ++thread)
      for (int64_t i = 0; i < a.k; ++i) {
        const int64_t at = thread * size + query * a.k + i;
        if (indices[at] >= 0) found.emplace_back(-scores[at], indices[at]);
      }
    const int64_t kept = std::min<int64_t>(a.k, found.size());
    std::partial_sort(found.begin(), found.begin() + kept, found.end());
    for (int64_t i = 0; i < a.k; ++i) {
      a.scores[query * a.k + i] = i < kept ? -found[i].first : -INFINITY;
      a.indices[query * a.k + i] = i < kept ? found[i].second : -1;
    }
  }
}

}  // namespace
}  // namespace metasd

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define METASD_X86 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // inside the compiler's own intrinsics
#ifdef METASD_AMX
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,bmi2,popcnt,prefer-vector-width=512")
#pragma GCC target("amx-tile,amx-int8")
#undef METASD_LEVEL
#undef METASD_VNNI
#undef METASD_TILES
#define METASD_LEVEL 512
#define METASD_VNNI 1
#define METASD_TILES 1
namespace metasd::engine_amx {
namespace {
#include "simd.inl"
#include "tiles.inl"

#include "compressed_table.inl"
}  // namespace
const Engine kEngine = {"amx", score, decode, check};
}  // namespace metasd::engine_amx
#pragma GCC pop_options
#undef METASD_TILES
#define METASD_TILES 0
#endif

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,bmi2,popcnt,prefer-vector-width=512")
#undef METASD_LEVEL
#undef METASD_VNNI
#define METASD_LEVEL 512
#define METASD_VNNI 1
namespace metasd::engine_vnni {
namespace {
#include "simd.inl"

#include "compressed_table.inl"
}  // namespace
const Engine kEngine = {"avx512vnni", score, decode, check};
}  // namespace metasd::engine_vnni
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi2,popcnt,prefer-vector-width=512")
#undef METASD_VNNI
#define METASD_VNNI 0
namespace metasd::engine_avx512 {
namespace {
#include "simd.inl"

#include "compressed_table.inl"
}  // namespace
const Engine kEngine = {"avx512", score, decode, check};
}  // namespace metasd::engine_avx512
#pragma GCC pop_options
#pragma GCC diagnostic pop

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2,popcnt")
#undef METASD_LEVEL
#define METASD_LEVEL 256
namespace metasd::engine_avx2 {
namespace {
#include "simd.inl"

#include "compressed_table.inl"
}  // namespace
const Engine kEngine = {"avx2", score, decode, check};
}  // namespace metasd::engine_avx2
#pragma GCC pop_options
#undef METASD_LEVEL
#define METASD_LEVEL 0
#endif

namespace metasd::engine_portable {
namespace {
#include "simd.inl"

#include "compressed_table.inl"
}  // namespace
const Engine kEngine = {"portable", score, decode, check};
}  // namespace metasd::engine_portable

namespace metasd {
namespace {

const Engine* find_engine(const char* name) {
#ifdef METASD_X86
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
#ifdef METASD_AMX
  if (!std::strcmp(name, "amx"))
    return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("amx-int8") &&
                   tiles_permitted()
               ? &engine_amx::kEngine
               : nullptr;
#endif
  if (!std::strcmp(name, "avx512vnni"))
    return avx512 && __builtin_cpu_supports("avx512vnni") ? &engine_vnni::kEngine : nullptr;
  if (!std::strcmp(name, "avx512")) return avx512 ? &engine_avx512::kEngine : nullptr;
  if (!std::strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &engine_avx2::kEngine
                                                                           : nullptr;
#endif
  return std::strcmp(name, "portable") ? nullptr : &engine_portable::kEngine;
}

const Engine* best_engine() {
  if (const char* wanted = std::getenv("METASD_ISA"))
    if (const Engine* found = find_engine(wanted)) return found;
  for (const char* name : {"amx", "avx512vnni", "avx512", "avx2"})
    if (const Engine* found = find_engine(name)) return found;
  return &engine_portable::kEngine;
}

const Engine*& selected_engine() {
  static const Engine* current = best_engine();
  return current;
}

}  // namespace

const Engine& engine() { return *selected_engine(); }

bool engine_supported(const char* isa) { return find_engine(isa) != nullptr; }

bool select_engine(const char* isa) {
  const Engine* found = find_engine(isa);
  if (found) selected_engine() = found;
  return found != nullptr;
}

}  // namespace metasd
