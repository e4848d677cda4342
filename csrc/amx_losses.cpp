// Losses over all entities in two sweeps over the tables, on tile registers (AMX).
//
// Written as three steps (products, row pass, products) a loss moves its score matrix through memory
// half a dozen times, which costs as much as the products. Here a thread takes a block of entities,
// rounds it to bf16 in its second-level cache, and for 32 queries at a time multiplies, applies the
// row pass to scores that are still in the first-level cache, and multiplies the gradient again.
// Scores are computed twice, since a softmax wants its sums first; that is cheaper than storing them.
//
//   sweep 1   z.T = E q.T                         -> running max and sums of every query
//   sweep 2   z.T again, G.T from it, dq.T += E.T G.T, dE = G.T q
//
// Between the two, processes that hold other entities may add their statistics (LossArgs::phase).
//
// All tiles have entities as rows and queries as columns: a vector register holds 16 queries, so that
// the row passes need no sum across lanes, tables are read as they lie, and only G, q and a
// transposed copy of the block have to be arranged in the pairs that the instruction wants.

#include "losses.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#include "parallel.h"
#include "passes.h"
#include "tiles.h"

#ifdef METASD_AMX

#define METASD_INLINE static inline __attribute__((always_inline))
#define METASD_INLINE_MEMBER inline __attribute__((always_inline))
#define METASD_LAMBDA __attribute__((always_inline))
#define METASD_LEVEL 513
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // inside the compiler's own intrinsics
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi2,prefer-vector-width=512")
#pragma GCC target("avx512bf16,amx-tile,amx-bf16")

namespace metasd {
namespace {
#include "simd.inl"
#include "tiles.inl"

// ---- tiles -----------------------------------------------------------------------------------------
// A tile is 16 rows of 64 bytes: 16 x 16 fp32, or 16 x 32 bf16. tdpbf16ps multiplies rows of 32 bf16
// by "paired" tiles, in which row i holds rows 2i and 2i + 1 of a (32, 16) matrix, interleaved.

constexpr int64_t kTile = 16, kPair = 32, kTileNumbers = kTile * kPair;

// The four accumulators: rows i and i + 16 of the left matrix, columns j and j + 16 of the right.
METASD_INLINE void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
METASD_INLINE void load_tiles(const float* c00, const float* c01, const float* c10, const float* c11) {
  _tile_loadd(0, c00, 64);
  _tile_loadd(1, c01, 64);
  _tile_loadd(2, c10, 64);
  _tile_loadd(3, c11, 64);
}
METASD_INLINE void store_tiles(float* c00, float* c01, float* c10, float* c11) {
  _tile_stored(0, c00, 64);
  _tile_stored(1, c01, 64);
  _tile_stored(2, c10, 64);
  _tile_stored(3, c11, 64);
}
// Adds a (32, 32 steps) times b (32 steps, 32). Both are pairs of runs of tiles: a's upper and lower
// rows, b's left and right columns; b's tiles stand `b_step` numbers apart. (Row passes between these
// instructions would not hide behind them: loads of tiles wait for the stores of vectors.)
METASD_INLINE void multiply_tiles(const bf16* a0, const bf16* a1, const bf16* b0, const bf16* b1,
                                  int64_t b_step, int64_t steps) {
  for (int64_t k = 0; k < steps; ++k) {
    _tile_loadd(4, a0 + k * kTileNumbers, 64);
    _tile_loadd(6, b0 + k * b_step, 64);
    _tile_loadd(7, b1 + k * b_step, 64);
    _tile_loadd(5, a1 + k * kTileNumbers, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// 32 bf16: those of `first`, then those of `second`.
METASD_INLINE u32 joined(f32 first, f32 second) {
  return (u32)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
METASD_INLINE u32 joined(const bf16* first, const bf16* second) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second));
  return (u32)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
// The same in turns, as words of one of the first and one of the second.
METASD_INLINE u32 interleaved(u32 joined) {
  const u32 lane = (u32)lane_ids();
  return (u32)_mm512_permutexvar_epi16((__m512i)(lane | ((lane + kTile) << 16)), (__m512i)joined);
}
// Number (i, j) of a matrix that is stored as tiles of 16 x 32, `width` columns wide.
template <class T>
METASD_INLINE T* row_of(T* tiles, uint64_t width, uint64_t i, uint64_t j) {
  constexpr uint64_t tile = kTile, pair = kPair;
  return tiles + i / tile * tile * width + j / pair * kTileNumbers + i % tile * pair + j % pair;
}
METASD_INLINE void store_words(void* to, u32 words) { __builtin_memcpy(to, &words, sizeof words); }

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

// Columns j .. j + 15 of row `row` of a masked table; zero beyond its edges.
METASD_INLINE f32 element(const float* table, const uint32_t* mask, int64_t rows, int64_t cols,
                          int64_t row, int64_t j) {
  if (row >= rows || j >= cols) return f32{};
  const float* from = table + row * cols + j;
  f32 v = cols - j >= kLanes ? load(from, All{}) : load(from, First{static_cast<int>(cols - j)});
  if (mask) v = chosen(mask_at(mask + row * ((cols + 31) / 32), j), v, f32{});
  return v;
}

#include "losses.inl"

// ---- the engine ------------------------------------------------------------------------------------

constexpr int64_t kBlock = 256;  // entities and queries whose operands stay in the second-level cache
constexpr int64_t kSquare = kPair * kPair;  // scores of 32 entities and 32 queries

// Sizes rounded up to whole pairs of tiles, and where everything lies in the scratch memory.
struct Plan {
  int64_t queries, entities, width;  // rounded up
  int64_t block, blocks;             // entities a thread takes at a time
  char* base;                        // null while only the size is asked for
  int64_t used = 0;

  Plan(int64_t q, int64_t n, int64_t k, int threads, void* scratch)
      : queries(round_up(q, kPair)),
        entities(round_up(n, kPair)),
        width(round_up(k, kPair)),
        base(static_cast<char*>(scratch)) {
    const int64_t fitting = round_up(kBlock * kBlock * 2 / width, kPair);  // 256 KiB of bf16
    const int64_t share = round_up((entities + threads - 1) / threads, kPair);
    block = fitting > kBlock ? kBlock : fitting < 2 * kPair ? 2 * kPair : fitting;
    if (share < block) block = share;
    blocks = (n + block - 1) / block;
  }
  template <class T>
  T* take(int64_t count) {
    T* found = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return found;
  }
};

constexpr int kMaxThreads = 256;

template <class Loss>
class Engine {
 public:
  Engine(const LossArgs& args, const Loss& loss, void* scratch)
      : args_(args),
        loss_(loss),
        plan_(args.queries, args.entities, args.width, args.threads, scratch) {
    const int64_t numbers = plan_.queries * plan_.width;
    for (int i = 0; i < Loss::kOperands; ++i) {
      across_[i] = plan_.take<bf16>(numbers);
      along_[i] = learns(i) ? plan_.take<bf16>(numbers) : nullptr;
    }
    factors_ = plan_.take<float>(Loss::kFactors * plan_.queries);
    weights_ = plan_.take<float>(plan_.queries);
    targets_ = plan_.take<int32_t>(plan_.queries);
    for (int t = 0; t < args.threads; ++t) {
      Thread& mine = threads_[t];
      mine.stats = plan_.take<float>(Loss::kStats * plan_.queries);
      mine.z = plan_.take<float>(Loss::kScores * kSquare);
      for (int i = 0; i < Loss::kOperands; ++i) {
        mine.rows[i] = plan_.take<bf16>(plan_.block * plan_.width);
        if (!learns(i)) continue;
        mine.columns[i] = plan_.take<bf16>(plan_.block * plan_.width);
        mine.g_rows[i] = plan_.take<bf16>(plan_.block * kBlock);
        mine.g_pairs[i] = plan_.take<bf16>(plan_.block * kBlock);
        mine.grad_right[i] = plan_.take<float>(plan_.block * plan_.width);
        mine.grad_left[i] = plan_.take<float>(numbers);
      }
    }
  }

  int64_t scratch() const { return plan_.used; }

  void run() {
    const int64_t query_pairs = plan_.queries / kPair;
    parallel_rows(query_pairs, args_.threads, [&](int64_t pair) { arrange_queries(pair * kPair); });
    if (args_.phase & kStatistics) {
      each_block([&](Thread& mine) { start_statistics(mine); },
                 [&](Thread& mine, int64_t start) {
                   arrange_block(mine, start, false);
                   sweep<StatisticsPass>(mine, start, 0, plan_.queries);
                 });
      parallel_rows(query_pairs * 2, args_.threads, [&](int64_t tile) { combine(tile * kTile); });
    }
    if (!(args_.phase & kGradient)) return;
    parallel_rows(query_pairs * 2, args_.threads, [&](int64_t tile) { prepare(tile * kTile); });
    each_block([&](Thread& mine) { start_gradients(mine); },
               [&](Thread& mine, int64_t start) { gradients(mine, start); });
    parallel_rows(query_pairs * 2, args_.threads, [&](int64_t tile) { finish_queries(tile * kTile); });
  }

 private:
  struct Thread {
    float* stats;                    // (kStats, queries)
    float* z;                        // a square of each score matrix: (kScores, 2, 32, 16)
    bf16 *rows[3], *columns[3];      // a block of a table: tiles of (block, width), of (width, block)
    bf16 *g_rows[3], *g_pairs[3];    // G.T (block, kBlock queries): tiles, and paired tiles
    float *grad_right[3];            // tiles (block / 16, width / 16) of 16 x 16
    float *grad_left[3];             // tiles (width / 16, queries / 16): transposed, all queries
  };

  // Threads share the blocks of entities; each starts once.
  template <class Start, class Body>
  void each_block(Start start, Body body) {
    parallel_ranges(plan_.blocks, args_.threads, [&](int64_t first, int64_t last, int t) {
      const FlushDenormals flush;
      const Tiles tiles;
      start(threads_[t]);
      for (int64_t b = first; b < last; ++b) body(threads_[t], b * plan_.block);
    });
  }

  static constexpr bool learns(int i) { return i < Loss::kScores && Loss::kLearns[i]; }

  // Queries as paired tiles, twice: over the width (for the scores), and over queries (for dE).
  void arrange_queries(int64_t first) {
    const int64_t cols = args_.width, steps = plan_.width / kPair, tiles = plan_.width / kTile;
    for (int i = 0; i < Loss::kOperands; ++i) {
      const float* from = args_.lefts[i].rows;
      const auto at = [&](int64_t row, int64_t j)
                          METASD_LAMBDA { return element(from, nullptr, args_.queries, cols, row, j); };
      for (int64_t q = first; q < first + kPair; q += kTile)
        for (int64_t step = 0; step < steps; ++step) {
          f32 words[kLanes];
          for (int r = 0; r < kLanes; ++r)
            words[r] = (f32)joined(at(q + r, step * kPair), at(q + r, step * kPair + kTile));
          transpose(words);
          bf16* to = across_[i] + (q / kTile * steps + step) * kTileNumbers;
          for (int r = 0; r < kLanes; ++r) store_words(to + r * kPair, (u32)words[r]);
        }
      if (!learns(i)) continue;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        bf16* to = along_[i] + (first / kPair * tiles + tile) * kTileNumbers;
        for (int r = 0; r < kLanes; ++r)
          store_words(to + r * kPair,
                      interleaved(joined(at(first + 2 * r, tile * kTile),
                                         at(first + 2 * r + 1, tile * kTile))));
      }
    }
    for (int64_t q = first; q < first + kPair; ++q) {
      const bool there = q < args_.queries;
      weights_[q] = there ? args_.scale * (args_.weight ? args_.weight[q] : 1.0f) : 0.0f;
      targets_[q] = there && Loss::kHasTargets ? static_cast<int32_t>(args_.targets[q]) : -1;
    }
  }

  // Rounds a block of every table to bf16; `columns` where the gradient of the queries is wanted.
  void arrange_block(Thread& mine, int64_t start, bool with_columns) {
    const int64_t cols = args_.width, height = round_up(valid(start), kPair);
    for (int i = 0; i < Loss::kOperands; ++i) {
      const Right& right = args_.rights[i];
      const auto at = [&](int64_t row, int64_t j) METASD_LAMBDA {
        return element(right.table, right.mask, args_.entities, cols, start + row, j);
      };
      for (int64_t n = 0; n < height; ++n)
        for (int64_t j = 0; j < plan_.width; j += kPair)
          store_words(row_of(mine.rows[i], plan_.width, n, j), joined(at(n, j), at(n, j + kTile)));
      if (!with_columns || !learns(i)) continue;
      for (int64_t n = 0; n < height; n += kPair)
        for (int64_t j = 0; j < plan_.width; j += kTile) {
          f32 words[kLanes];
          for (int r = 0; r < kLanes; ++r) {
            const bf16* even = row_of(mine.rows[i], plan_.width, n + 2 * r, j);
            words[r] = (f32)interleaved(joined(even, even + kPair));
          }
          transpose(words);
          for (int r = 0; r < kLanes; ++r)
            store_words(row_of(mine.columns[i], plan_.block, j + r, n), (u32)words[r]);
        }
    }
    written();
  }

  int64_t valid(int64_t start) const {
    return args_.entities - start < plan_.block ? args_.entities - start : plan_.block;
  }

  // One square of every score matrix: entities n .. n + 31 of the block, queries q .. q + 31.
  METASD_INLINE void score(const Engine& e, const Thread& mine, int64_t q, int64_t n) {
    const int64_t steps = e.plan_.width / kPair, width = e.plan_.width;
    for (int s = 0; s < Loss::kScores; ++s) {
      zero_tiles();
      for (int t = 0; t < Loss::kTerms[s]; ++t) {
        const Term term = Loss::kTermsOf[s][t];
        const bf16* a = mine.rows[term.right] + n * width;
        const bf16* b = e.across_[term.left] + q / kTile * steps * kTileNumbers;
        multiply_tiles(a, a + kTile * width, b, b + steps * kTileNumbers, kTileNumbers, steps);
      }
      float* left = mine.z + s * kSquare;
      float* right = left + kSquare / 2;
      store_tiles(left, right, left + kSquare / 4, right + kSquare / 4);
    }
  }

  // A pass over all squares of a block of entities and some queries.
  template <class Pass>
  void sweep(Thread& mine, int64_t start, int64_t first_query, int64_t queries) {
    for (int64_t q = first_query; q < first_query + queries; q += kPair)
      for (int64_t n = 0; n < valid(start); n += kPair) {
        score(*this, mine, q, n);
        const int64_t count = valid(start) - n < kPair ? valid(start) - n : kPair;
        for (int half = 0; half < 2; ++half) Pass::run({*this, mine, start, q, n, count, half});
      }
  }

  // Half a square: 16 queries, and as many of the 32 entities as there are.
  struct Strip {
    Engine& engine;
    Thread& mine;
    int64_t start, q, n, count;
    int half;

    int64_t query() const { return q + half * kTile; }
    const float* scores(int s) const { return mine.z + s * kSquare + half * kSquare / 2; }
  };
  METASD_INLINE void scores_at(const Strip& at, int64_t row, f32* z) {
    for (int s = 0; s < Loss::kScores; ++s) z[s] = load(at.scores(s) + row * kTile, All{});
  }

  struct StatisticsPass {
    METASD_INLINE void run(const Strip& at) {
      const Loss loss = at.engine.loss_;
      const int64_t stride = at.engine.plan_.queries;
      float* place = at.mine.stats + at.query();
      const float* z[Loss::kScores];
      f32 stat[Loss::kStats];
      for (int s = 0; s < Loss::kScores; ++s) z[s] = at.scores(s);
      for (int i = 0; i < Loss::kFirstTarget; ++i) stat[i] = load(place + i * stride, All{});
      Loss::raise(loss, z, at.count, stat);
      with_counts(at.engine.args_, at.start + at.n, [&](auto counts) METASD_LAMBDA {
        for (int64_t row = 0; row < at.count; ++row) {
          f32 here[Loss::kScores];
          scores_at(at, row, here);
          Loss::add(loss, here, counts(row), stat);
        }
      });
      for (int i = 0; i < Loss::kFirstTarget; ++i) store(place + i * stride, stat[i], All{});
      at.engine.each_target(at, [&](int lane, int64_t row) {
        for (int s = 0; s < Loss::kScores; ++s)
          place[(Loss::kFirstTarget + s) * stride + lane] = z[s][row * kTile + lane];
      });
    }
  };

  // Writes G.T in both arrangements.
  struct GradientPass {
    METASD_INLINE void run(const Strip& at) {
      with_counts(at.engine.args_, at.start + at.n,
                  [&](auto counts) METASD_LAMBDA { write(at, counts); });
    }
    template <class Counts>
    METASD_INLINE void write(const Strip& at, Counts counts) {
      const Loss loss = at.engine.loss_;
      const int64_t query = at.query(), column = query % kBlock;
      f32 factor[Loss::kFactors];
      for (int i = 0; i < Loss::kFactors; ++i)
        factor[i] = load(at.engine.factors_ + i * at.engine.plan_.queries + query, All{});
      const auto gradient = [&](int64_t row, f32* g) METASD_LAMBDA {
        f32 z[Loss::kScores];
        scores_at(at, row, z);
        Loss::gradient(loss, z, counts(row), factor, g);
      };
      bf16 *rows[Loss::kScores]{}, *pairs[Loss::kScores]{};
      for (int s = 0; s < Loss::kScores; ++s) {
        if (!learns(s)) continue;
        rows[s] = row_of(at.mine.g_rows[s], kBlock, at.n, column);
        const int64_t tile = at.n / kPair * (kBlock / kTile) + column / kTile;
        pairs[s] = at.mine.g_pairs[s] + tile * kTileNumbers;
      }
      for (int64_t row = 0; row < kPair; row += 2) {
        f32 even[Loss::kScores]{}, odd[Loss::kScores]{};  // zero where there is no entity
        if (row < at.count) gradient(row, even);
        if (row + 1 < at.count) gradient(row + 1, odd);
        for (int s = 0; s < Loss::kScores; ++s) {
          if (!learns(s)) continue;
          const u32 both = joined(even[s], odd[s]);
          bf16* to = row_of(rows[s], kBlock, row, 0);
          constexpr size_t half = sizeof both / 2;
          __builtin_memcpy(to, &both, half);
          __builtin_memcpy(to + kPair, reinterpret_cast<const char*>(&both) + half, half);
          store_words(pairs[s] + row / 2 * kPair, interleaved(both));
        }
      }
      at.engine.each_target(at, [&](int lane, int64_t row) {
        f32 g[Loss::kScores];
        gradient(row, g);
        for (int s = 0; s < Loss::kScores; ++s) {
          if (!learns(s)) continue;
          const bf16 value = narrow(g[s] - at.engine.weights_[query + lane])[lane];
          row_of(rows[s], kBlock, row, 0)[lane] = value;
          pairs[s][row / 2 * kPair + 2 * lane + row % 2] = value;
        }
      });
    }
  };

  // Calls body(lane, row) for every query of a strip whose target is in it.
  template <class Body>
  void each_target(const Strip& at, Body body) const {
    if constexpr (!Loss::kHasTargets) return;
    i32 row;
    __builtin_memcpy(&row, targets_ + at.query(), sizeof row);
    row -= static_cast<int32_t>(at.start + at.n);
    const int32_t count = static_cast<int32_t>(at.count);
    if (!any((row >= 0) & (row < count))) return;
    for (int lane = 0; lane < kLanes; ++lane)
      if (0 <= row[lane] && row[lane] < count) body(lane, static_cast<int64_t>(row[lane]));
  }

  void start_statistics(Thread& mine) {
    for (int64_t i = 0; i < Loss::kStats * plan_.queries; ++i) mine.stats[i] = 0.0f;
    const int maxima = Loss::kScores < 2 ? 1 : 2;
    for (int64_t i = 0; i < maxima * plan_.queries; ++i) mine.stats[i] = kNothing;
  }

  // Sums the threads' statistics of 16 queries.
  void combine(int64_t q) {
    f32 total[Loss::kStats], other[Loss::kStats];
    for (int t = 0; t < args_.threads; ++t) {
      f32* stat = t ? other : total;
      for (int i = 0; i < Loss::kStats; ++i)
        stat[i] = load(threads_[t].stats + i * plan_.queries + q, All{});
      if (t == 0) continue;
      Loss::combine(loss_, total, other);
      for (int i = Loss::kFirstTarget; i < Loss::kStats; ++i) total[i] += other[i];  // one has it
    }
    for (int64_t lane = 0; lane < kLanes && q + lane < args_.queries; ++lane)
      for (int i = 0; i < Loss::kStats; ++i)
        args_.stats[(q + lane) * Loss::kStats + i] = total[i][lane];
  }

  // What the gradient needs of the statistics of 16 queries; any finite numbers past the last query.
  void prepare(int64_t q) {
    f32 stat[Loss::kStats], factor[Loss::kFactors];
    for (int i = 0; i < Loss::kStats; ++i) {
      stat[i] = splat(1.0f);
      for (int64_t lane = 0; lane < kLanes && q + lane < args_.queries; ++lane)
        stat[i][lane] = args_.stats[(q + lane) * Loss::kStats + i];
    }
    Loss::prepare(loss_, stat, load(weights_ + q, All{}), scales(args_, q), factor);
    for (int i = 0; i < Loss::kFactors; ++i) store(factors_ + i * plan_.queries + q, factor[i], All{});
  }

  void start_gradients(Thread& mine) {
    for (int i = 0; i < Loss::kOperands; ++i)
      if (learns(i)) std::memset(mine.grad_left[i], 0, plan_.queries * plan_.width * sizeof(float));
  }

  void gradients(Thread& mine, int64_t start) {
    arrange_block(mine, start, true);
    for (int64_t q = 0; q < plan_.queries; q += kBlock) {
      const int64_t queries = plan_.queries - q < kBlock ? plan_.queries - q : kBlock;
      sweep<GradientPass>(mine, start, q, queries);
      written();
      for (int i = 0; i < Loss::kOperands; ++i)
        if (learns(i)) {
          add_to_queries(mine, i, start, q, queries);
          add_to_entities(mine, i, start, q, queries);
        }
    }
    for (int i = 0; i < Loss::kOperands; ++i)
      if (learns(i)) finish_entities(mine, i, start);
  }

  // dq.T += E.T G.T for a block of entities and of queries.
  void add_to_queries(Thread& mine, int i, int64_t start, int64_t q, int64_t queries) {
    const int64_t steps = round_up(valid(start), kPair) / kPair, query_tiles = plan_.queries / kTile;
    for (int64_t column = 0; column < queries; column += kPair)
      for (int64_t j = 0; j < plan_.width; j += kPair) {
        float* c = mine.grad_left[i] + (j / kTile * query_tiles + (q + column) / kTile) * 256;
        float* below = c + query_tiles * 256;
        load_tiles(c, c + 256, below, below + 256);
        const bf16* b = mine.g_pairs[i] + column / kTile * kTileNumbers;
        const bf16* a = mine.columns[i] + j * plan_.block;
        multiply_tiles(a, a + kTile * plan_.block, b, b + kTileNumbers, kBlock / kTile * kTileNumbers,
                       steps);
        store_tiles(c, c + 256, below, below + 256);
      }
  }

  // dE += G.T q for a block of entities and of queries.
  void add_to_entities(Thread& mine, int i, int64_t start, int64_t q, int64_t queries) {
    const int64_t height = round_up(valid(start), kPair), tiles = plan_.width / kTile;
    for (int64_t n = 0; n < height; n += kPair)
      for (int64_t j = 0; j < plan_.width; j += kPair) {
        float* c = mine.grad_right[i] + (n / kTile * tiles + j / kTile) * 256;
        float* below = c + tiles * 256;
        if (q == 0)
          zero_tiles();
        else
          load_tiles(c, c + 256, below, below + 256);
        const bf16* b = along_[i] + (q / kPair * tiles + j / kTile) * kTileNumbers;
        const bf16* a = mine.g_rows[i] + n * kBlock;
        multiply_tiles(a, a + kTile * kBlock, b, b + kTileNumbers, tiles * kTileNumbers,
                       queries / kPair);
        store_tiles(c, c + 256, below, below + 256);
      }
  }

  void finish_entities(const Thread& mine, int i, int64_t start) {
    const Right& right = args_.rights[i];
    const int64_t cols = args_.width, words = (cols + 31) / 32, tiles = plan_.width / kTile;
    for (int64_t n = 0; n < valid(start); ++n) {
      float* to = right.grad + (start + n) * cols;
      const float* from = mine.grad_right[i] + n / kTile * tiles * 256 + n % kTile * kTile;
      const uint32_t* mask = right.grad_mask ? right.grad_mask + (start + n) * words : nullptr;
      vectors(0, cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
        f32 v = load(from + j / kTile * 256, All{});
        if (mask) v = chosen(mask_at(mask, j), v, f32{});
        if (right.add) v += load(to + j, lanes);
        store(to + j, v, lanes);
      });
    }
  }

  // Sums the threads' gradients of 16 queries, in the order of the threads.
  void finish_queries(int64_t q) {
    const int64_t query_tiles = plan_.queries / kTile;
    for (int i = 0; i < Loss::kOperands; ++i) {
      if (!learns(i)) continue;
      vectors(0, args_.width, [&](int64_t j, auto lanes) METASD_LAMBDA {
        f32 tile[kLanes]{};
        for (int t = 0; t < args_.threads; ++t) {
          const float* from = threads_[t].grad_left[i] + (j / kTile * query_tiles + q / kTile) * 256;
          for (int r = 0; r < kLanes; ++r) tile[r] += load(from + r * kTile, All{});
        }
        transpose(tile);
        for (int64_t r = 0; r < kLanes && q + r < args_.queries; ++r)
          store(args_.lefts[i].grad + (q + r) * args_.width + j, tile[r], lanes);
      });
    }
  }

  LossArgs args_;
  Loss loss_;
  Plan plan_;
  bf16 *across_[3]{}, *along_[3]{};  // queries as paired tiles over the width, and over queries
  float *factors_, *weights_;
  int32_t* targets_;
  Thread threads_[kMaxThreads];
};

template <class Loss>
void run(LossArgs args, const Loss& loss) {
  if (args.threads > kMaxThreads) args.threads = kMaxThreads;
  const int64_t size = Engine<Loss>(args, loss, nullptr).scratch();
  const std::unique_ptr<void, void (*)(void*)> scratch(std::aligned_alloc(64, size), std::free);
  if (!scratch) throw std::bad_alloc();
  Engine<Loss>(args, loss, scratch.get()).run();
}

}  // namespace

void amx_cross_entropy(const LossArgs& args) { run(args, CrossEntropy<true>{}); }

void amx_distillation(const LossArgs& args, const DistillationWeights& a) {
  const bool mutual = args.lefts[0].grad != nullptr, cubed = a.temperature == 3.0f;
  const float inverse = 1.0f / a.temperature;
  const auto with = [&](auto mutual, auto cubed) {
    run(args, Distillation<true, mutual(), cubed()>{inverse, a.difference_weight, a.logarithm_weight});
  };
  const std::true_type yes;
  const std::false_type no;
  if (mutual)
    cubed ? with(yes, yes) : with(yes, no);
  else
    cubed ? with(no, yes) : with(no, no);
}

void amx_meta(const LossArgs& args, const MetaWeights& a) {
  run(args, Meta<true, false>{1.0f / a.temperature, a.forward_weight, a.backward_weight});
}

#pragma GCC pop_options
#pragma GCC diagnostic pop

bool amx_supported() { return __builtin_cpu_supports("amx-bf16") && tiles_permitted(); }

}  // namespace metasd

#else

namespace metasd {

bool amx_supported() { return false; }
void amx_cross_entropy(const LossArgs&) {}
void amx_distillation(const LossArgs&, const DistillationWeights&) {}
void amx_meta(const LossArgs&, const MetaWeights&) {}

}  // namespace metasd
#endif
