// Losses over all entities on vector registers, with sampled gradients. Included once per instruction set.
//
// A thread takes a group of up to 64 queries and multiplies them by all entities. A vector holds 16
// queries, a panel: scores lie as [panel][entity][query], so that no row pass needs a sum across lanes,
// and a table is read as it lies. The scores of a group stay in the caches between the two passes:
//
//   pass 1   z.T = E q.T block by block of entities    -> running max and sums of every query
//   pass 2   G.T from z.T, of which few entries are kept (Sampling in losses.h): each adds E[n] to a
//            row of dq at once, and is noted
//   at last  dE from the entries of all groups, block by block of entities
//
// Entities go up within a query's sums, and queries within an entity's: results do not depend on the
// groups, nor on the threads. Rows of a masked table are packed: only kept weights are multiplied.

// ---- products --------------------------------------------------------------------------------------

#if METASD_LEVEL >= 512
constexpr int kNative = 16, kTileRows = 12, kTilePanels = 2;  // 24 of 32 registers are sums
#elif METASD_LEVEL >= 256
constexpr int kNative = 8, kTileRows = 6, kTilePanels = 1;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kNative = 4, kTileRows = 6, kTilePanels = 1;  // 24 of 32
#else
constexpr int kNative = 4, kTileRows = 3, kTilePanels = 1;  // 12 of 16
#endif
constexpr int kVectors = kLanes / kNative;  // registers of a panel
using native = float __attribute__((vector_size(sizeof(float) * kNative)));

// What is multiplied in one step of a product: a number of each operand, or a pair of bf16 numbers.
struct Numbers {
  using Type = float;
  static constexpr int kPerStep = 1;
  METASD_INLINE Type rounded(float x) { return x; }
  METASD_INLINE native spread(const float* a) { return *a - native{}; }
  METASD_INLINE native product(native a, native b, native sum) { return sum + a * b; }
};
#if METASD_LEVEL == 513
struct Pairs {
  using Type = bf16;
  static constexpr int kPerStep = 2;
  METASD_INLINE Type rounded(float x) { return narrow(splat(x))[0]; }
  METASD_INLINE native spread(const bf16* a) {
    int32_t pair;
    __builtin_memcpy(&pair, a, sizeof pair);
    return (native)_mm512_set1_epi32(pair);
  }
  METASD_INLINE native product(native a, native b, native sum) {
    return (native)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};
#endif

// Panels of queries as products read them: [panel][step][query], pairs side by side.
template <class N>
struct Panels {
  const typename N::Type* data;
  int64_t steps;

  const typename N::Type* at(int64_t panel) const { return data + panel * steps * kLanes * N::kPerStep; }
};

// z += a . b for some rows of a and some panels: z is [panel][row][query], `z_panel` numbers apart.
template <int kRows, int kPanels, class N>
METASD_INLINE void multiply_tile(const typename N::Type* a, int64_t stride, const Panels<N>& b,
                                 int64_t panel, int64_t first, int64_t last, float* z, int64_t z_panel,
                                 bool add) {
  native sum[kRows][kPanels][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p)
      for (int v = 0; v < kVectors; ++v) {
        sum[r][p][v] = native{};
        if (add)
          __builtin_memcpy(&sum[r][p][v], z + p * z_panel + r * kLanes + v * kNative, sizeof(native));
      }
  const typename N::Type* panels[kPanels];
  for (int p = 0; p < kPanels; ++p) panels[p] = b.at(panel + p);
  for (int64_t k = first; k < last; ++k) {
    native at[kPanels][kVectors];
    for (int p = 0; p < kPanels; ++p)
      for (int v = 0; v < kVectors; ++v)
        __builtin_memcpy(&at[p][v], panels[p] + (k * kLanes + v * kNative) * N::kPerStep, sizeof(native));
    for (int r = 0; r < kRows; ++r) {
      const native row = N::spread(a + r * stride + k * N::kPerStep);
      for (int p = 0; p < kPanels; ++p)
        for (int v = 0; v < kVectors; ++v) sum[r][p][v] = N::product(row, at[p][v], sum[r][p][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p)
      for (int v = 0; v < kVectors; ++v)
        __builtin_memcpy(z + p * z_panel + r * kLanes + v * kNative, &sum[r][p][v], sizeof(native));
}

constexpr int64_t kStepsAtOnce = (24 << 10) / (64 * kTilePanels);  // panels of 24 KiB stay in the L1 cache

template <int kPanels, class N>
void multiply_panels(const typename N::Type* a, int64_t stride, int64_t rows, const Panels<N>& b,
                     int64_t panel, int64_t first, int64_t last, float* z, int64_t z_panel, bool add) {
  int64_t n = 0;
  for (; n + kTileRows <= rows; n += kTileRows)
    multiply_tile<kTileRows, kPanels, N>(a + n * stride, stride, b, panel, first, last, z + n * kLanes,
                                         z_panel, add);
  for (; n < rows; ++n)
    multiply_tile<1, kPanels, N>(a + n * stride, stride, b, panel, first, last, z + n * kLanes, z_panel,
                                 add);
}

// z of some rows of a table and some panels.
template <class N>
void multiply(const typename N::Type* a, int64_t stride, int64_t rows, const Panels<N>& b, int64_t panel,
              int64_t panels, float* z, int64_t z_panel, bool add) {
  for (int64_t first = 0; first < b.steps; first += kStepsAtOnce) {
    const int64_t last = first + kStepsAtOnce < b.steps ? first + kStepsAtOnce : b.steps;
    int64_t p = 0;
    for (; p + kTilePanels <= panels; p += kTilePanels)
      multiply_panels<kTilePanels, N>(a, stride, rows, b, panel + p, first, last, z + p * z_panel, z_panel,
                                      add || first > 0);
    for (; p < panels; ++p)
      multiply_panels<1, N>(a, stride, rows, b, panel + p, first, last, z + p * z_panel, z_panel,
                            add || first > 0);
  }
}

// The kept weights of a masked table by row: those of row n are starts[n] .. starts[n + 1] - 1.
struct PackedRows {
  std::unique_ptr<int64_t[]> starts;
  std::unique_ptr<int32_t[]> columns;
  std::unique_ptr<float[]> weights;
};

// The same for packed rows: a broadcast weight meets all panels of its column.
template <int kPanels>
METASD_INLINE void multiply_packed(const PackedRows& a, int64_t first, int64_t rows,
                                   const Panels<Numbers>& b, int64_t panel, float* z, int64_t z_panel,
                                   bool add) {
  const float* panels[kPanels];
  for (int p = 0; p < kPanels; ++p) panels[p] = b.at(panel + p);
  for (int64_t n = 0; n < rows; ++n) {
    native sum[kPanels][kVectors];
    for (int p = 0; p < kPanels; ++p)
      for (int v = 0; v < kVectors; ++v) {
        sum[p][v] = native{};
        if (add)
          __builtin_memcpy(&sum[p][v], z + p * z_panel + n * kLanes + v * kNative, sizeof(native));
      }
    for (int64_t i = a.starts[first + n]; i < a.starts[first + n + 1]; ++i) {
      const native weight = Numbers::spread(a.weights.get() + i);
      const int64_t column = a.columns[i] * kLanes;
      for (int p = 0; p < kPanels; ++p)
        for (int v = 0; v < kVectors; ++v) {
          native at;
          __builtin_memcpy(&at, panels[p] + column + v * kNative, sizeof at);
          sum[p][v] += weight * at;
        }
    }
    for (int p = 0; p < kPanels; ++p)
      for (int v = 0; v < kVectors; ++v)
        __builtin_memcpy(z + p * z_panel + n * kLanes + v * kNative, &sum[p][v], sizeof(native));
  }
}

// ---- chance ----------------------------------------------------------------------------------------
// A number in [0, 1) for every query and entity: the key of each, well mixed, and what both make.
// kernels/_sampling.py says the same in torch.

METASD_INLINE uint32_t mixed_key(uint64_t x) {  // Steele, Lea, Flood 2014 (SplitMix64)
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((x ^ (x >> 31)) >> 32);
}
METASD_INLINE f32 chance(u32 query, uint32_t entity) {
  u32 x = (query ^ entity) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  x ^= x >> 16;
  return to_floats((i32)(x >> 8)) * 0x1p-24f;
}

// ---- the engine ------------------------------------------------------------------------------------

constexpr int64_t kGroupPanels = 4;
constexpr int64_t kBlockBytes = 96 << 10;  // of a table's rows: they stay in the second-level cache

// An entry of a gradient in the scores that is kept.
struct Entry {
  int32_t entity, query;
  float value;
};

template <class Loss, class N>
class Strips {
 public:
  Strips(const LossArgs& args, const Loss& loss) : args_(args), loss_(loss) {
    const int64_t fitting = kBlockBytes / (args.width * 4) / kTileRows * kTileRows;
    block_ = fitting < kTileRows ? kTileRows : fitting;
    blocks_ = (args.entities + block_ - 1) / block_;
    panels_ = (args.queries + kLanes - 1) / kLanes;
    // Groups are small enough for every thread to get one, and for their scores to fit.
    const int64_t fair = (panels_ + args.threads - 1) / args.threads;
    const int64_t column = args.entities * kLanes * static_cast<int64_t>(sizeof(float)) * Loss::kScores;
    const int64_t room = args.memory / (args.threads * column);
    group_ = kGroupPanels < fair ? kGroupPanels : fair;
    if (room > 0 && room < group_) group_ = room;
    resident_ = room > 0 && args.phase == kBoth;
    height_ = resident_ ? args.entities : block_;
  }

  void run() {
    for (int i = 0; i < Loss::kOperands; ++i) arrange_queries(i), arrange_table(i);
    arrange_places();
    const int64_t groups = (panels_ + group_ - 1) / group_, scores = group_ * height_ * kLanes;
    const auto strips = uninitialized<float>(args_.threads * Loss::kScores * scores);
    for (auto& notes : notes_) notes = std::vector<Notes>(groups);
    parallel_tasks(groups, args_.threads, [&](int64_t group, int thread) {
      const FlushDenormals flush;
      const int64_t first = group * group_, last = first + group_ < panels_ ? first + group_ : panels_;
      Group at{group, first, last - first, {}};
      for (int s = 0; s < Loss::kScores; ++s)
        at.z[s] = strips.get() + (thread * Loss::kScores + s) * scores;
      if (args_.phase & kStatistics) statistics(at);
      if (args_.phase & kGradient) gradients(at);
    });
    if (args_.phase & kGradient)
      parallel_ranges(blocks_, args_.threads, [&](int64_t begin, int64_t end, int) {
        const auto rows = uninitialized<float>(block_ * args_.width);
        for (int64_t b = begin; b < end; ++b) finish_entities(b, rows.get());
      });
  }

 private:
  struct Notes {
    std::vector<Entry> entries;
    std::vector<int64_t> starts;  // of the entries of every block of entities
  };
  // Panels first .. first + panels - 1, and their strip of every score matrix.
  struct Group {
    int64_t number, first, panels;
    float* z[Loss::kScores];
  };

  static constexpr bool learns(int i) { return i < Loss::kScores && Loss::kLearns[i]; }

  template <class T>
  static std::unique_ptr<T[]> uninitialized(int64_t count) {
    return std::unique_ptr<T[]>(new T[count]);
  }

  int64_t rows_of(int64_t b) const {
    return b + 1 < blocks_ ? block_ : args_.entities - b * block_;
  }
  const float* scores(const Group& at, int s, int64_t panel, int64_t start) const {
    return at.z[s] + (panel * height_ + (resident_ ? start : 0)) * kLanes;
  }

  template <class M>
  void arrange_panels(const float* rows, std::unique_ptr<typename M::Type[]>& out) {
    const int64_t steps = (args_.width + M::kPerStep - 1) / M::kPerStep;
    out = uninitialized<typename M::Type>(panels_ * steps * kLanes * M::kPerStep);
    parallel_rows(panels_, args_.threads, [&](int64_t panel) {
      typename M::Type* to = out.get() + panel * steps * kLanes * M::kPerStep;
      for (int64_t k = 0; k < steps; ++k)
        for (int64_t lane = 0; lane < kLanes; ++lane)
          for (int64_t j = k * M::kPerStep; j < (k + 1) * M::kPerStep; ++j, ++to) {
            const int64_t q = panel * kLanes + lane;
            *to = M::rounded(q < args_.queries && j < args_.width ? rows[q * args_.width + j] : 0.0f);
          }
    });
  }
  void arrange_queries(int i) {
    arrange_panels<Numbers>(args_.lefts[i].rows, panels_of_[i]);
    if constexpr (N::kPerStep > 1) arrange_panels<N>(args_.lefts[i].rows, half_panels_of_[i]);
  }

  void arrange_table(int i) {
    const Right& right = args_.rights[i];
    const int64_t width = args_.width, words = (width + 31) / 32;
    if (right.mask) {
      PackedRows& packed = packed_[i];
      packed.starts = uninitialized<int64_t>(args_.entities + 1);
      packed.starts[0] = 0;
      for (int64_t n = 0; n < args_.entities; ++n) {
        int64_t kept = 0;
        for (int64_t w = 0; w < words; ++w) kept += __builtin_popcount(right.mask[n * words + w]);
        packed.starts[n + 1] = packed.starts[n] + kept;
      }
      packed.columns = uninitialized<int32_t>(packed.starts[args_.entities]);
      packed.weights = uninitialized<float>(packed.starts[args_.entities]);
      parallel_rows(args_.entities, args_.threads, [&](int64_t n) {
        int64_t to = packed.starts[n];
        for (int64_t w = 0; w < words; ++w)
          for (uint32_t bits = right.mask[n * words + w]; bits; bits &= bits - 1, ++to) {
            packed.columns[to] = static_cast<int32_t>(w * 32 + __builtin_ctz(bits));
            packed.weights[to] = right.table[n * width + packed.columns[to]];
          }
      });
      return;
    }
    if constexpr (N::kPerStep > 1) {
      stride_ = (width + N::kPerStep - 1) / N::kPerStep * N::kPerStep;
      rounded_[i] = uninitialized<typename N::Type>(args_.entities * stride_);
      parallel_rows(args_.entities, args_.threads, [&](int64_t n) {
        typename N::Type* to = rounded_[i].get() + n * stride_;
        to[stride_ - 1] = 0;
        vectors(0, width, [&](int64_t j, auto lanes) METASD_LAMBDA {
          store(to + j, load(right.table + n * width + j, lanes), lanes);
        });
      });
    }
  }

  // What a query has beside its numbers, and an entity; past the last query nothing is kept.
  void arrange_places() {
    weights_ = uninitialized<float>(panels_ * kLanes);
    targets_ = uninitialized<int32_t>(panels_ * kLanes);
    for (int64_t q = 0; q < panels_ * kLanes; ++q) {
      const bool there = q < args_.queries;
      weights_[q] = there ? args_.scale * (args_.weight ? args_.weight[q] : 1.0f) : 0.0f;
      const bool has_target =
          there && Loss::kHasTargets && 0 <= args_.targets[q] && args_.targets[q] < args_.entities;
      targets_[q] = has_target ? static_cast<int32_t>(args_.targets[q]) : -1;
    }
    entity_keys_ = uninitialized<uint32_t>(args_.entities);
    for (int64_t n = 0; n < args_.entities; ++n) {
      const uint64_t number = static_cast<uint64_t>(args_.sampling.first_entity + n);
      entity_keys_[n] = mixed_key(args_.sampling.key + (number << 1));
    }
  }

  // The scores of a block of entities and a group of queries.
  void multiply_block(const Group& at, int64_t start, int64_t rows) {
    const int64_t width = args_.width, apart = height_ * kLanes;
    for (int s = 0; s < Loss::kScores; ++s)
      for (int t = 0; t < Loss::kTerms[s]; ++t) {
        const Term term = Loss::kTermsOf[s][t];
        float* z = at.z[s] + (resident_ ? start * kLanes : 0);
        if (args_.rights[term.right].mask) {
          const Panels<Numbers> panels{panels_of_[term.left].get(), width};
          int64_t p = 0;
          for (; p + 4 <= at.panels; p += 4)
            multiply_packed<4>(packed_[term.right], start, rows, panels, at.first + p, z + p * apart, apart,
                               t > 0);
          for (; p < at.panels; ++p)
            multiply_packed<1>(packed_[term.right], start, rows, panels, at.first + p, z + p * apart, apart,
                               t > 0);
        } else if constexpr (N::kPerStep > 1) {
          multiply<N>(rounded_[term.right].get() + start * stride_, stride_, rows,
                      {half_panels_of_[term.left].get(), stride_ / N::kPerStep}, at.first, at.panels, z,
                      apart, t > 0);
        } else {
          multiply<N>(args_.rights[term.right].table + start * width, width, rows,
                      {panels_of_[term.left].get(), width}, at.first, at.panels, z, apart, t > 0);
        }
      }
  }

  void statistics(const Group& at) {
    constexpr int maxima = Loss::kScores < 2 ? 1 : 2;
    f32 total[kGroupPanels][Loss::kStats];
    for (auto& stat : total)
      for (int i = 0; i < Loss::kStats; ++i) stat[i] = splat(i < maxima ? kNothing : 0.0f);
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t start = b * block_, rows = rows_of(b);
      multiply_block(at, start, rows);
      for (int64_t p = 0; p < at.panels; ++p) {
        const float* z[Loss::kScores];
        for (int s = 0; s < Loss::kScores; ++s) z[s] = scores(at, s, p, start);
        f32* stat = total[p];
        Loss::raise(loss_, z, rows, stat);
        f32 sums[Loss::kStats];  // of the block: long sums lose digits
        for (int i = 0; i < Loss::kStats; ++i) sums[i] = i < maxima ? stat[i] : f32{};
        with_counts(args_, start, [&](auto counts) METASD_LAMBDA {
          for (int64_t n = 0; n < rows; ++n) {
            f32 here[Loss::kScores];
            for (int s = 0; s < Loss::kScores; ++s) here[s] = load(z[s] + n * kLanes, All{});
            Loss::add(loss_, here, counts(n), sums);
          }
        });
        for (int i = maxima; i < Loss::kFirstTarget; ++i) stat[i] += sums[i];
        note_targets(at, p, start, rows, z, stat);
      }
    }
    for (int64_t p = 0; p < at.panels; ++p)
      for (int64_t q = (at.first + p) * kLanes, lane = 0; lane < kLanes && q < args_.queries; ++lane, ++q)
        for (int i = 0; i < Loss::kStats; ++i) args_.stats[q * Loss::kStats + i] = total[p][i][lane];
  }

  void note_targets(const Group& at, int64_t p, int64_t start, int64_t rows,
                    const float* const* z, f32* stat) const {
    i32 row = read<i32>(targets_.get() + (at.first + p) * kLanes);
    row -= static_cast<int32_t>(start);
    if (!any((row >= 0) & (row < static_cast<int32_t>(rows)))) return;
    for (int lane = 0; lane < kLanes; ++lane)
      for (int s = 0; s < Loss::kScores && 0 <= row[lane] && row[lane] < rows; ++s)
        stat[Loss::kFirstTarget + s][lane] = z[s][row[lane] * kLanes + lane];
  }

  void gradients(const Group& at) {
    f32 factors[kGroupPanels][Loss::kFactors], limits[kGroupPanels];
    u32 keys[kGroupPanels][Loss::kScores];
    for (int64_t p = 0; p < at.panels; ++p) prepare(at.first + p, factors[p], limits[p], keys[p]);
    const int64_t width = args_.width, first_query = at.first * kLanes;
    const int64_t last_query = (at.first + at.panels) * kLanes;
    const int64_t queries = (last_query < args_.queries ? last_query : args_.queries) - first_query;
    Notes* notes[Loss::kScores]{};
    for (int s = 0; s < Loss::kScores; ++s) {
      if (!learns(s)) continue;
      std::memset(args_.lefts[s].grad + first_query * width, 0, queries * width * sizeof(float));
      notes[s] = &notes_[s][at.number];
      notes[s]->starts.reserve(blocks_ + 1);
    }
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t start = b * block_, rows = rows_of(b);
      if (!resident_) multiply_block(at, start, rows);
      for (int s = 0; s < Loss::kScores; ++s)
        if (learns(s)) notes[s]->starts.push_back(static_cast<int64_t>(notes[s]->entries.size()));
      for (int64_t p = 0; p < at.panels; ++p)
        with_counts(args_, start, [&](auto counts) METASD_LAMBDA {
          sample(at, p, start, rows, counts, factors[p], limits[p], keys[p], notes);
        });
    }
    for (int s = 0; s < Loss::kScores; ++s)
      if (learns(s)) notes[s]->starts.push_back(static_cast<int64_t>(notes[s]->entries.size()));
  }

  // The part of the gradient of 16 queries that their statistics decide, and their keys.
  void prepare(int64_t panel, f32* factors, f32& limit, u32* keys) const {
    f32 stat[Loss::kStats], weight = load(weights_.get() + panel * kLanes, All{});
    for (int i = 0; i < Loss::kStats; ++i) {
      stat[i] = splat(1.0f);
      for (int64_t lane = 0, q = panel * kLanes; lane < kLanes && q < args_.queries; ++lane, ++q)
        stat[i][lane] = args_.stats[q * Loss::kStats + i];
    }
    Loss::prepare(loss_, stat, weight, scales(args_, panel * kLanes), factors);
    limit = Loss::span(loss_, stat, args_.scale) * args_.sampling.threshold;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t q = panel * kLanes + lane;
      if (q >= args_.queries) limit[lane] = INFINITY;
      const uint64_t number = static_cast<uint64_t>(args_.sampling.first_query + q);
      for (int s = 0; s < Loss::kScores; ++s)
        keys[s][lane] = mixed_key(~args_.sampling.key + (number << 2) + static_cast<uint64_t>(s));
    }
  }

  // Keeps entries of a block of entities and 16 queries.
  template <class Counts>
  void sample(const Group& at, int64_t p, int64_t start, int64_t rows, Counts counts, const f32* factors,
              f32 limit, const u32* keys, Notes* const* notes) {
    const int64_t first_query = (at.first + p) * kLanes;
    const f32 weight = load(weights_.get() + first_query, All{});
    const float* z[Loss::kScores];
    for (int s = 0; s < Loss::kScores; ++s) z[s] = scores(at, s, p, start);
    i32 target = read<i32>(targets_.get() + first_query);
    target -= static_cast<int32_t>(start);
    for (int64_t n = 0; n < rows; ++n) {
      f32 here[Loss::kScores], g[Loss::kScores];
      for (int s = 0; s < Loss::kScores; ++s) here[s] = load(z[s] + n * kLanes, All{});
      Loss::gradient(loss_, here, counts(n), factors, g);
      for (int s = 0; s < Loss::kScores; ++s) {
        if (!learns(s)) continue;
        if constexpr (Loss::kHasTargets) g[s] = chosen(target == static_cast<int32_t>(n), g[s] - weight, g[s]);
        const f32 magnitude = chosen(g[s] < 0.0f, -g[s], g[s]);
        const i32 kept = magnitude > chance(keys[s], entity_keys_[start + n]) * limit;
        uint32_t lanes = bits_of(kept);
        if (!lanes) continue;
        const f32 least = larger(magnitude, limit), value = chosen(g[s] < 0.0f, -least, least);
        for (; lanes; lanes &= lanes - 1) {
          const int lane = __builtin_ctz(lanes);
          const Entry entry{static_cast<int32_t>(start + n), static_cast<int32_t>(first_query + lane),
                            value[lane]};
          notes[s]->entries.push_back(entry);
          add_row(s, entry);
        }
      }
    }
  }

  // dq[query] += value * (mask * table)[entity]
  METASD_INLINE_MEMBER void add_row(int s, const Entry& entry) const {
    float* to = args_.lefts[s].grad + entry.query * args_.width;
    const Right& right = args_.rights[s];
    if (!right.mask)
      return add_scaled(to, right.table + entry.entity * args_.width, entry.value, args_.width);
    const PackedRows& packed = packed_[s];
    for (int64_t i = packed.starts[entry.entity]; i < packed.starts[entry.entity + 1]; ++i)
      to[packed.columns[i]] += entry.value * packed.weights[i];
  }

  METASD_INLINE void add_scaled(float* to, const float* from, float factor, int64_t width) {
    vectors(0, width, [&](int64_t j, auto lanes) METASD_LAMBDA {
      store(to + j, load(to + j, lanes) + load(from + j, lanes) * factor, lanes);
    });
  }

  // dE of a block of entities, from what every group has noted.
  void finish_entities(int64_t b, float* sums) {
    const int64_t start = b * block_, rows = rows_of(b), width = args_.width, words = (width + 31) / 32;
    for (int s = 0; s < Loss::kScores; ++s) {
      if (!learns(s)) continue;
      const Right& right = args_.rights[s];
      std::memset(sums, 0, rows * width * sizeof(float));
      for (const Notes& notes : notes_[s])
        for (int64_t i = notes.starts[b]; i < notes.starts[b + 1]; ++i) {
          const Entry& entry = notes.entries[i];
          add_scaled(sums + (entry.entity - start) * width, args_.lefts[s].rows + entry.query * width,
                     entry.value, width);
        }
      for (int64_t n = start; n < start + rows; ++n) {
        const uint32_t* mask = right.grad_mask ? right.grad_mask + n * words : nullptr;
        accumulate_row(right.grad + n * width, sums + (n - start) * width, mask, width, right.add);
      }
    }
  }

  const LossArgs& args_;
  const Loss loss_;
  int64_t block_, blocks_, panels_, group_, height_, stride_ = 0;
  bool resident_;
  std::unique_ptr<float[]> panels_of_[3], weights_;
  std::unique_ptr<typename N::Type[]> half_panels_of_[3], rounded_[3];
  std::unique_ptr<int32_t[]> targets_;
  std::unique_ptr<uint32_t[]> entity_keys_;
  PackedRows packed_[3];
  std::vector<Notes> notes_[Loss::kScores];
};

template <template <bool> class Loss, class... Weights>
void run_strips(const LossArgs& args, Weights... weights) {
#if METASD_LEVEL == 513
  if (args.half) return Strips<Loss<true>, Pairs>(args, Loss<true>{weights...}).run();
#endif
  Strips<Loss<false>, Numbers>(args, Loss<false>{weights...}).run();
}

template <bool kHalf>
using InnerCubed = Distillation<kHalf, false, true>;
template <bool kHalf>
using Inner = Distillation<kHalf, false, false>;
template <bool kHalf>
using MutualCubed = Distillation<kHalf, true, true>;
template <bool kHalf>
using Mutual = Distillation<kHalf, true, false>;
template <bool kHalf>
using SampledMeta = Meta<kHalf, true>;

void strip_cross_entropy(const LossArgs& args) { run_strips<CrossEntropy>(args); }

void strip_distillation(const LossArgs& args, const DistillationWeights& a) {
  const bool mutual = args.lefts[0].grad != nullptr, cubed = a.temperature == 3.0f;
  const float inverse = 1.0f / a.temperature, difference = a.difference_weight;
  if (mutual)
    cubed ? run_strips<MutualCubed>(args, inverse, difference, a.logarithm_weight)
          : run_strips<Mutual>(args, inverse, difference, a.logarithm_weight);
  else
    cubed ? run_strips<InnerCubed>(args, inverse, difference, a.logarithm_weight)
          : run_strips<Inner>(args, inverse, difference, a.logarithm_weight);
}

void strip_meta(const LossArgs& args, const MetaWeights& a) {
  run_strips<SampledMeta>(args, 1.0f / a.temperature, a.forward_weight, a.backward_weight);
}
