// Scores, decoding and checks of compressed tables. Included once per instruction set (compressed_table.cpp).
// Rows are scored in strips of sixteen. A vector may read past the end of a row into the next one:
// what it finds there meets a zero of the query. Past the end of an array it reads a copy.

using bytes16 = uint8_t __attribute__((vector_size(16)));
using bytes64 = uint8_t __attribute__((vector_size(64)));

METASD_INLINE int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Sixteen values of a kind as floats.
template <Values kKind>
METASD_INLINE f32 values_at(const uint8_t* values, int64_t i) {
  if constexpr (kKind == Values::kF32) {
    return load(reinterpret_cast<const float*>(values) + i, All{});
  } else if constexpr (kKind == Values::kBF16) {
    return load(reinterpret_cast<const bf16*>(values) + i, All{});
  } else if constexpr (kKind == Values::kF16) {
#if METASD_LEVEL >= 512
    return (f32)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 2 * i)));
#elif METASD_LEVEL >= 256
    f32 out;
    for (int k = 0; k < f32::kParts; ++k)
      out.part[k] = (f32::Part)_mm256_cvtph_ps(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 2 * i + 16 * k)));
    return out;
#else
    const u32 bits = widen_bits(read<u16>(values + 2 * i));
    const f32 magnitude = (f32)((bits & 0x7fffu) << 13) * 0x1p112f;  // subnormal ones as well
    return (f32)((u32)magnitude | (bits & 0x8000u) << 16);
#endif
  } else {
    static_assert(kKind == Values::kI8);
#if METASD_LEVEL >= 512
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i));
    return (f32)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
#else
    using bytes = int8_t __attribute__((vector_size(kPartBytes / 4)));
    f32 out;
    for (int k = 0; k < f32::kParts; ++k) {
      bytes v;
      __builtin_memcpy(&v, values + i + k * sizeof v, sizeof v);
      out.part[k] = __builtin_convertvector(v, f32::Part);
    }
    return out;
#endif
  }
}

METASD_INLINE f32 gather(const float* from, i32 index) {
#if METASD_LEVEL >= 512
  // Into zeros: what was in the register before would have to be waited for.
  return (f32)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, (__m512i)index, from, 4);
#elif METASD_LEVEL >= 256
  f32 out;
  for (int k = 0; k < f32::kParts; ++k)
    out.part[k] = (f32::Part)_mm256_i32gather_ps(from, (__m256i)index.part[k], 4);
  return out;
#else
  f32 out;
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = from[index[lane]];
  return out;
#endif
}

// What `bytes` bytes at `from` are where the array ends at `end`: in place, or a copy with zeros after.
METASD_INLINE const uint8_t* readable(const uint8_t* from, int64_t bytes, const uint8_t* end,
                                      std::vector<uint8_t>& copy) {
  if (__builtin_expect(from + bytes <= end, 1)) return from;
  copy.assign(bytes, 0);
  std::memcpy(copy.data(), from, end - from);
  return copy.data();
}

struct Scratch {
  std::vector<int32_t> index;            // columns of a row, then `width` to a whole vector
  std::vector<float> weights, tile;      // values of a row; scores of a strip before transposition
  std::vector<uint8_t> codes, values;    // copies of what lies at an array's end
  std::vector<uint8_t> planes;           // unpacked rows of a strip
  std::vector<int32_t> sums;             // products of a strip on tiles
  std::vector<float> block, max, total;  // scores of a block; logsumexp so far
};

// One row of a table whose values are numbers of their own.
struct Row {
  int64_t count;
  const uint8_t* values;
  const int32_t* index;  // null: every column
};

#if METASD_LEVEL >= 256
// Columns from sixteen gaps: last + the sum of the gaps so far + one each; `last` is left at the end.
struct RunningSum {
#if METASD_VNNI
  __m512i ones[4];
  METASD_INLINE_MEMBER RunningSum() {
    for (int part = 0; part < 4; ++part) {
      ones[part] = _mm512_load_si512(kRunningOnes.of[part]);
      __asm__("" : "+v"(ones[part]));  // stays in a register: the load ports are what is scarce here
    }
  }
  METASD_INLINE_MEMBER i32 operator()(const uint8_t* gaps, i32& last) const {
    __m512i even = (__m512i)(lane_ids() + 1), odd = _mm512_setzero_si512();
    even = _mm512_dpbusd_epi32(even, four(gaps), ones[0]);
    odd = _mm512_dpbusd_epi32(odd, four(gaps + 4), ones[1]);
    even = _mm512_dpbusd_epi32(even, four(gaps + 8), ones[2]);
    odd = _mm512_dpbusd_epi32(odd, four(gaps + 12), ones[3]);
    const __m512i column = _mm512_add_epi32(_mm512_add_epi32(even, odd), (__m512i)last);
    last = (i32)_mm512_permutexvar_epi32(_mm512_set1_epi32(15), column);
    return (i32)column;
  }
  static METASD_INLINE_MEMBER __m512i four(const uint8_t* gaps) {
    int32_t bytes;
    __builtin_memcpy(&bytes, gaps, sizeof bytes);
    return _mm512_set1_epi32(bytes);
  }
#elif METASD_LEVEL >= 512
  template <int kBy>
  static METASD_INLINE_MEMBER __m512i up(__m512i v) {  // to higher lanes, zeros come first
    return _mm512_alignr_epi32(v, _mm512_setzero_si512(), kLanes - kBy);
  }
  METASD_INLINE_MEMBER i32 operator()(const uint8_t* gaps, i32& last) const {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(gaps));
    __m512i column = _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(1));
    column = _mm512_add_epi32(column, up<1>(column));
    column = _mm512_add_epi32(column, up<2>(column));
    column = _mm512_add_epi32(column, up<4>(column));
    column = _mm512_add_epi32(column, up<8>(column));
    column = _mm512_add_epi32(column, (__m512i)last);
    last = (i32)_mm512_permutexvar_epi32(_mm512_set1_epi32(15), column);
    return (i32)column;
  }
#else
  METASD_INLINE_MEMBER i32 operator()(const uint8_t* gaps, i32& last) const {
    const __m256i highest = _mm256_set1_epi32(7);
    __m256i before = (__m256i)last.part[0];
    i32 columns;
    for (int k = 0; k < i32::kParts; ++k) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(gaps + 8 * k));
      __m256i column = _mm256_add_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(1));
      column = _mm256_add_epi32(column, _mm256_slli_si256(column, 4));  // within the halves
      column = _mm256_add_epi32(column, _mm256_slli_si256(column, 8));
      const __m256i lower = _mm256_permute2x128_si256(column, column, 0x08);
      column = _mm256_add_epi32(column, _mm256_shuffle_epi32(lower, 0xff));
      column = _mm256_add_epi32(column, before);
      before = _mm256_permutevar8x32_epi32(column, highest);
      columns.part[k] = (i32::Part)column;
    }
    last.part[0] = (i32::Part)before;
    return columns;
  }
#endif
};
#endif

// The columns of a row, `width` in what is left of the last vector.
METASD_INLINE void read_columns(const CodedTable& t, int64_t row, int64_t begin, int64_t count,
                                Scratch& s) {
  int32_t* index = s.index.data();
  const int32_t none = static_cast<int32_t>(t.width);
  const int64_t whole = whole_vectors(count);
  if (t.code == Columns::kDelta8) {
    const uint8_t* gap = readable(t.columns + begin, whole, t.columns + t.column_bytes, s.codes);
#if METASD_LEVEL >= 256
    const RunningSum sum;
    i32 last = i32{} - 1;
    for (int64_t i = 0; i < whole; i += kLanes) write(index + i, sum(gap + i, last));
    if (const int32_t rest = static_cast<int32_t>(count % kLanes)) {
      const i32 column = read<i32>(index + count - rest);
      write(index + count - rest, chosen(lane_ids() < rest, column, i32{} + none));
    }
#else
    int32_t column = -1;
    for (int64_t i = 0; i < count; ++i) index[i] = column += gap[i] + 1;
    for (int64_t i = count; i < whole; ++i) index[i] = none;
#endif
  } else if (t.code == Columns::kIndex16) {
    const uint8_t* from = t.columns + 2 * begin;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t column;
      std::memcpy(&column, from + 2 * i, 2);
      index[i] = column;
    }
    for (int64_t i = count; i < whole; ++i) index[i] = none;
  } else if (t.code == Columns::kBits) {
    const int64_t bytes = (t.width + 7) / 8;
    const uint8_t* bits = t.columns + row * bytes;
    int32_t* to = index;
#if METASD_LEVEL >= 512
    for (int64_t byte = 0; byte < bytes; byte += 2) {
      const unsigned word = bits[byte] | (byte + 1 < bytes ? bits[byte + 1] << 8 : 0);
      const i32 columns = lane_ids() + static_cast<int32_t>(8 * byte);
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(word, (__m512i)columns));
      to += __builtin_popcount(word);
    }
#else
    for (int64_t byte = 0; byte < bytes; ++byte)
      for (unsigned word = bits[byte]; word; word &= word - 1)
        *to++ = static_cast<int32_t>(8 * byte) + __builtin_ctz(word);
#endif
    for (int64_t i = count; i < whole; ++i) index[i] = none;
  }
}

template <Values kKind>
METASD_INLINE Row read_row(const CodedTable& t, int64_t row, Scratch& s) {
  const int64_t size = value_bits(kKind) / 8;
  const bool all = t.code == Columns::kAll;
  const int64_t begin = all ? row * t.width : t.indptr[row];
  const int64_t count = all ? t.width : t.indptr[row + 1] - begin;
  if (!all) read_columns(t, row, begin, count, s);
  const uint8_t* end = t.values + t.value_bytes;
  const uint8_t* values = readable(t.values + begin * size, whole_vectors(count) * size, end, s.values);
  return {count, values, all ? nullptr : s.index.data()};
}

// Sixteen vectors to one: lane i is the sum of vector i.
METASD_INLINE f32 sums(f32 (&rows)[kLanes]) {
  transpose(rows);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) rows[i] += rows[i + width];
  return rows[0];
}

// Values that are numbers: products with the weights that a row has, in fp32.
template <Values kKind>
struct Numbers {
  static constexpr int64_t kFew = 4;  // fewer queries than this fill too few lanes: gather instead
  static constexpr int kTogether = 4;  // rows that share the loads of queries, where they can

  const ScoreArgs& a;
  int64_t stride;                // queries of a column, whole vectors
  std::vector<float> transposed;  // (width + 1, stride); of one or two queries (queries, whole width)
  bool few;

  explicit Numbers(const ScoreArgs& a)
      : a(a), stride(whole_vectors(a.count_queries)), few(a.count_queries <= kFew) {
    const int64_t width = a.table.width;
    if (few) {
      stride = whole_vectors(width + 1);
      transposed.resize(a.count_queries * stride);
      for (int64_t query = 0; query < a.count_queries; ++query)
        std::copy_n(a.queries + query * width, width, transposed.data() + query * stride);
      return;
    }
    transposed.resize((width + 1) * stride);
    for (int64_t query = 0; query < a.count_queries; ++query)
      for (int64_t j = 0; j < width; ++j) transposed[j * stride + query] = a.queries[query * width + j];
  }

  void prepare(Scratch& s) const {
    s.index.resize(whole_vectors(a.table.width) + kLanes);
    s.weights.resize(kTogether * whole_vectors(a.table.width));
    s.tile.resize(kLanes * stride);
  }

  // Scores of `count` rows into z[query * z_stride + 0 .. 15].
  void strip(const int64_t* rows, int count, float* z, int64_t z_stride, Scratch& s) const {
    if (few)
      strip_of_few(rows, count, z, z_stride, s);
    else
      strip_of_many(rows, count, z, z_stride, s);
  }

#if METASD_LEVEL >= 256
  // Columns go from their code to the gather in registers.
  void strip_of_gaps(const int64_t* rows, int count, float* z, Scratch& s) const {
    const CodedTable& t = a.table;
    const float* q = transposed.data();
    const i32 none = i32{} + static_cast<int32_t>(t.width);
    constexpr int64_t size = value_bits(kKind) / 8;
    const uint8_t *columns_end = t.columns + t.column_bytes, *values_end = t.values + t.value_bytes;
    const RunningSum running;
    f32 total[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      const int64_t row = rows[std::min(r, count - 1)], begin = t.indptr[row];
      const int64_t n = t.indptr[row + 1] - begin, whole = whole_vectors(n);
      const uint8_t* gap = readable(t.columns + begin, whole, columns_end, s.codes);
      const uint8_t* values = readable(t.values + begin * size, whole * size, values_end, s.values);
      // Some forty rows ahead: from memory a third faster, from a cache no slower.
      for (int64_t line = 0; line < n; line += 64) __builtin_prefetch(gap + 4096 + line);
      for (int64_t line = 0; line < n * size; line += 64)
        __builtin_prefetch(values + 4096 * size + line);
      i32 last = i32{} - 1;
      f32 sum{};
      int64_t i = 0;
      for (; i + kLanes < n; i += kLanes)
        sum += values_at<kKind>(values, i) * gather(q, running(gap + i, last));
      if (i < n) {
        const i32 column = running(gap + i, last);
        const i32 inside = lane_ids() < static_cast<int32_t>(n - i);
        sum += values_at<kKind>(values, i) * gather(q, chosen(inside, column, none));
      }
      total[r] = t.scale ? sum * t.scale[row] : sum;
    }
    store(z, sums(total), All{});
  }
#endif

  void strip_of_few(const int64_t* rows, int count, float* z, int64_t z_stride, Scratch& s) const {
#if METASD_LEVEL >= 256
    if (a.table.code == Columns::kDelta8 && a.count_queries == 1)
      return strip_of_gaps(rows, count, z, s);
#endif
    f32 total[kFew][kLanes];
    for (int query = 0; query < kFew; ++query)
      for (int r = count; r < kLanes; ++r) total[query][r] = f32{};
    for (int r = 0; r < count; ++r) {
      const Row row = read_row<kKind>(a.table, rows[r], s);
      const float scale = a.table.scale ? a.table.scale[rows[r]] : 1.0f;
      for (int64_t query = 0; query < a.count_queries; ++query) {
        const float* q = transposed.data() + query * stride;
        f32 sum{};
        for (int64_t i = 0; i < row.count; i += kLanes)
          sum += values_at<kKind>(row.values, i) *
                 (row.index ? gather(q, read<i32>(row.index + i)) : load(q + i, All{}));
        total[query][r] = sum * scale;
      }
    }
    for (int64_t query = 0; query < a.count_queries; ++query)
      store(z + query * z_stride, sums(total[query]), All{});
  }

  void strip_of_many(const int64_t* rows, int count, float* z, int64_t z_stride, Scratch& s) const {
    float* tile = s.tile.data();
    const int together = a.table.code == Columns::kAll ? kTogether : 1;
    for (int r = 0; r < count; r += together) {
      Row row;
      for (int i = 0; i < together; ++i) {
        const int64_t id = rows[std::min(r + i, count - 1)];
        row = read_row<kKind>(a.table, id, s);
        const float scale = a.table.scale ? a.table.scale[id] : 1.0f;
        float* weights = s.weights.data() + i * whole_vectors(a.table.width);
        for (int64_t j = 0; j < row.count; j += kLanes)
          store(weights + j, values_at<kKind>(row.values, j) * scale, All{});
      }
      int64_t at = 0;
      for (; at + 4 * kLanes <= stride; at += 4 * kLanes)
        together == 1 ? group<1, 4>(row, s, at, tile + r * stride)
                      : group<kTogether, 4>(row, s, at, tile + r * stride);
      for (; at < stride; at += kLanes)
        together == 1 ? group<1, 1>(row, s, at, tile + r * stride)
                      : group<kTogether, 1>(row, s, at, tile + r * stride);
    }
    for (int64_t at = 0; at < stride; at += kLanes) {
      f32 square[kLanes];
      for (int r = 0; r < kLanes; ++r) square[r] = load(tile + r * stride + at, All{});
      transpose(square);
      const int64_t queries = std::min<int64_t>(kLanes, a.count_queries - at);
      for (int64_t i = 0; i < queries; ++i) store(z + (at + i) * z_stride, square[i], All{});
    }
  }

  // kRows rows with 16 kVectors queries; more rows than one only where all have the same columns.
  template <int kRows, int kVectors>
  METASD_INLINE_MEMBER void group(const Row& row, const Scratch& s, int64_t at, float* out) const {
    const int64_t width = whole_vectors(a.table.width);
    f32 sum[kRows][kVectors]{};
    for (int64_t i = 0; i < row.count; ++i) {
      const float* q = transposed.data() + (kRows == 1 ? row.index[i] : i) * stride + at;
      for (int v = 0; v < kVectors; ++v) {
        const f32 x = load(q + v * kLanes, All{});
        for (int r = 0; r < kRows; ++r) sum[r][v] += s.weights[r * width + i] * x;
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) store(out + r * stride + at + v * kLanes, sum[r][v], All{});
  }
};

// Adds to sixteen sums the products of four bytes each: codes without sign, query bytes with one. Small
// codes are below 16: sums of two products fit in 16 bits.
template <bool kSmall>
METASD_INLINE i32 dot_add(i32 sum, u32 codes, const int8_t* query) {
#if METASD_VNNI
  return (i32)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_loadu_si512(query));
#elif METASD_LEVEL >= 512
  const __m512i x = (__m512i)codes;
  if (kSmall) {
    const __m512i pairs = _mm512_maddubs_epi16(x, _mm512_loadu_si512(query));
    return sum + (i32)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
  }
  const __m256i halves[2] = {_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)};
  for (int k = 0; k < 2; ++k) {
    const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + 32 * k));
    sum += (i32)_mm512_madd_epi16(_mm512_cvtepu8_epi16(halves[k]), _mm512_cvtepi8_epi16(q));
  }
  return sum;
#elif METASD_LEVEL >= 256
  for (int k = 0; k < i32::kParts; ++k) {
    const __m256i x = (__m256i)codes.part[k];
    const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + 32 * k));
    if (kSmall) {
      const __m256i pairs = _mm256_maddubs_epi16(x, q);
      sum.part[k] += (i32::Part)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
      continue;
    }
    const __m128i halves[2][2] = {{_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)},
                                  {_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1)}};
    for (int h = 0; h < 2; ++h)
      sum.part[k] += (i32::Part)_mm256_madd_epi16(_mm256_cvtepu8_epi16(halves[0][h]),
                                                  _mm256_cvtepi8_epi16(halves[1][h]));
  }
  return sum;
#else
  uint8_t bytes[64];
  write(bytes, codes);
  for (int i = 0; i < 64; ++i) sum[i % kLanes] += bytes[i] * query[i];
  return sum;
#endif
}

// Codes of 64 columns in each plane of a row, in vectors.
template <Values kKind>
struct Packed {
  static constexpr int kPlanes = kKind == Values::kHalf3 ? 8 : 8 / static_cast<int>(value_bits(kKind));
  static constexpr int kVectors = kKind == Values::kHalf3 ? 3 : 1;
  u32 bits[kVectors];

  // Codes of plane p, one a byte.
  METASD_INLINE_MEMBER u32 plane(int p) const {
    if constexpr (kKind == Values::kHalf3) {
      const u32 lower = (bits[p % 2] >> (p / 2 * 2)) & 0x03030303u;
      return lower | ((bits[2] >> p) & 0x01010101u) << 2;
    }
    constexpr uint32_t kCode = kPlanes == 1 ? ~0u : kPlanes == 2 ? 0x0f0f0f0fu : 0x03030303u;
    return (bits[0] >> (8 / kPlanes * p % 8)) & kCode;
  }
};

// Values that are small whole numbers: exact products with the query rounded to 16 bits, as 256
// times a high byte plus a low one.
template <Values kKind>
struct Codes {
  static constexpr int kPlanes = Packed<kKind>::kPlanes, kVectors = Packed<kKind>::kVectors;
  static constexpr int kOffset = code_offset(kKind);
  static constexpr bool kTiles = METASD_TILES, kSmall = kPlanes > 1;
  static constexpr int64_t kTileQueries = 8;  // fewer fill too little of a tile

  const ScoreArgs& a;
  int64_t bytes, share;         // of a row; columns of one of its planes
  int64_t plane, size;          // bytes of an unpacked plane, in whole 64; of all planes
  std::vector<int8_t> queries;  // (queries, high and low, size)
  std::vector<uint8_t> tiles;   // the same, as right operands of tile products; see strip_of_tiles
  std::vector<int32_t> start;   // (blocks of sixteen queries, high and low, 16): sums of `bias`
  std::vector<float> step;      // of each query's 16-bit grid
  std::vector<float> half;      // half the sum of a query's whole numbers, for values that are halves
  std::vector<i32, WideAllocator<i32>> bias;  // (queries, high and low): -offset times its sums

  explicit Codes(const ScoreArgs& a)
      : a(a), bytes(row_bytes(a.table)), share(bytes / kVectors), plane((share + 63) / 64 * 64),
        size(kPlanes * plane), queries(2 * size * a.count_queries), step(a.count_queries), half(a.count_queries),
        bias(2 * a.count_queries) {
    const int64_t width = a.table.width;
    const u32 offsets = u32{} + 0x01010101u * kOffset;
    for (int64_t query = 0; query < a.count_queries; ++query) {
      const float* q = a.queries + query * width;
      int8_t *high = queries.data() + 2 * size * query, *low = high + size;
      float largest = std::numeric_limits<float>::min();
      for (int64_t j = 0; j < width; ++j) largest = std::max(largest, std::fabs(q[j]));
      step[query] = largest / 32639.0f;  // 127 * 256 + 127
      for (int64_t j = 0; j < width; ++j) {
        const int whole = static_cast<int>(std::lrintf(q[j] / largest * 32639.0f));
        const int64_t at = j / share * plane + j % share;
        low[at] = static_cast<int8_t>(whole & 255);
        high[at] = static_cast<int8_t>((whole - low[at]) / 256);
        if (halves(kKind)) half[query] += 0.5f * static_cast<float>(whole);
      }
      for (int part = 0; part < 2; ++part) {
        i32 sum{};
        for (int64_t i = 0; i < size; i += 64)
          sum = dot_add<kSmall>(sum, offsets, high + part * size + i);
        bias[2 * query + part] = -sum;
      }
    }
    if (kTiles && a.count_queries >= kTileQueries) arrange_tiles();
  }

  void prepare(Scratch& s) const {
    s.planes.resize(kLanes * size);
    s.sums.resize(4 * kLanes * kLanes);
  }

  f32 scores_of(f32 sums, f32 scale, int64_t query) const {
    return (sums + half[query]) * scale * step[query];
  }

  // A row's codes, one a byte, plane after plane: in place, or unpacked to `to`.
  const uint8_t* unpack(int64_t row, uint8_t* to) const {
    const uint8_t *from = a.table.values + row * bytes, *end = a.table.values + a.table.value_bytes;
    if (kPlanes == 1 && from + size <= end) return from;
    for (int64_t i = 0; i < plane; i += 64) {
      Packed<kKind> packed{};
      for (int v = 0; v < kVectors; ++v) {
        const uint8_t* source = from + v * share + i;
        __builtin_prefetch(source + kLanes * bytes);  // the strip after this one
        const int64_t there = std::min<int64_t>(64, end - source);
        if (there == 64)
          packed.bits[v] = read<u32>(source);
        else if (there > 0)
          std::memcpy(static_cast<void*>(&packed.bits[v]), source, there);
      }
      for (int p = 0; p < kPlanes; ++p) {
        write(to + p * plane + i, packed.plane(p));
      }
    }
    return to;
  }

  void strip(const int64_t* rows, int count, float* z, int64_t z_stride, Scratch& s) const {
#if METASD_TILES
    if (a.count_queries >= kTileQueries) return strip_of_tiles(rows, count, z, z_stride, s);
#endif
#if METASD_LEVEL >= 256
    if (kPlanes > 1 && a.count_queries < 4 && strip_of_packed(rows, count, z, z_stride)) return;
#endif
    const uint8_t* codes[kLanes];
    f32 scale;
    for (int r = 0; r < kLanes; ++r) {
      codes[r] = r < count ? unpack(rows[r], s.planes.data() + r * size) : codes[0];
      scale[r] = a.table.scale[rows[r < count ? r : 0]];
    }
    int64_t query = 0;
    if (METASD_LEVEL >= 512)
      for (; query + 4 <= a.count_queries; query += 4) products<2, 4>(codes, scale, query, z, z_stride);
    else
      for (; query + 2 <= a.count_queries; query += 2) products<1, 2>(codes, scale, query, z, z_stride);
    for (; query < a.count_queries; ++query) products<4, 1>(codes, scale, query, z, z_stride);
  }

#if METASD_LEVEL >= 256
  // Few queries: codes go from their bytes to the products in registers. False near the array's end,
  // where whole vectors cannot be read.
  bool strip_of_packed(const int64_t* rows, int count, float* z, int64_t z_stride) const {
    const uint8_t *from[kLanes], *end = a.table.values + a.table.value_bytes;
    f32 scale;
    for (int r = 0; r < kLanes; ++r) {
      const int64_t row = rows[r < count ? r : 0];
      from[r] = a.table.values + row * bytes;
      scale[r] = a.table.scale[row];
      if (from[r] + (kVectors - 1) * share + plane > end) return false;
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from[r] + kLanes * bytes + i);
    }
    constexpr int kRows = METASD_LEVEL >= 512 ? 4 : 2;
    for (int64_t query = 0; query < a.count_queries; ++query) {
      f32 total[kLanes];
      const int8_t* q = queries.data() + 2 * size * query;
      for (int r = 0; r < kLanes; r += kRows) {
        i32 high[kRows], low[kRows];
        for (int k = 0; k < kRows; ++k) high[k] = bias[2 * query], low[k] = bias[2 * query + 1];
        for (int64_t i = 0; i < plane; i += 64) {
          Packed<kKind> packed[kRows];
          for (int k = 0; k < kRows; ++k)
            for (int v = 0; v < kVectors; ++v)
              packed[k].bits[v] = read<u32>(from[r + k] + v * share + i);
          for (int p = 0; p < kPlanes; ++p)
            for (int k = 0; k < kRows; ++k) {
              const u32 codes = packed[k].plane(p);
              high[k] = dot_add<kSmall>(high[k], codes, q + p * plane + i);
              low[k] = dot_add<kSmall>(low[k], codes, q + size + p * plane + i);
            }
        }
        for (int k = 0; k < kRows; ++k)
          total[r + k] = to_floats(high[k]) * 256.0f + to_floats(low[k]);
      }
      store(z + query * z_stride, scores_of(sums(total), scale, query), All{});
    }
    return true;
  }
#endif

  // Right operands of tile products: for each sixteen queries and 64 bytes of them a tile of their
  // high bytes and one of their low ones; its row i has of each query the bytes 4 i .. 4 i + 3.
  void arrange_tiles() {
    const int64_t blocks = (a.count_queries + kLanes - 1) / kLanes;
    tiles.resize(2 * size * kLanes * blocks);
    start.resize(2 * kLanes * blocks);
    for (int64_t query = 0; query < a.count_queries; ++query)
      for (int part = 0; part < 2; ++part) {
        const int64_t block = query / kLanes, column = query % kLanes;
        for (int64_t i = 0; i < size; i += 4) {
          const int64_t tile = (block * (size / 64) + i / 64) * 2 + part;
          std::memcpy(tiles.data() + tile * 1024 + i % 64 / 4 * 64 + column * 4,
                      queries.data() + (2 * query + part) * size + i, 4);
        }
        int32_t& sum = start[(2 * block + part) * kLanes + column];
        for (int lane = 0; lane < kLanes; ++lane) sum += bias[2 * query + part][lane];
      }
  }

#if METASD_TILES
  void strip_of_tiles(const int64_t* rows, int count, float* z, int64_t z_stride, Scratch& s) const {
    uint8_t* codes = s.planes.data();
    f32 scale{};
    for (int r = 0; r < count; ++r) {
      const uint8_t* row = unpack(rows[r], codes + r * size);
      if (row != codes + r * size) std::memcpy(codes + r * size, row, size);
      scale[r] = a.table.scale[rows[r]];
    }
    written();
    const int64_t block_bytes = 2 * size * kLanes, last = (a.count_queries - 1) / kLanes;
    int32_t* sums = s.sums.data();
    for (int64_t block = 0; block <= last; block += 2) {
      const uint8_t* first = tiles.data() + block * block_bytes;
      const uint8_t* second = block < last ? first + block_bytes : first;
      const int32_t* from = start.data() + 2 * kLanes * block;
      const int32_t* from_second = block < last ? from + 2 * kLanes : from;
      _tile_loadd(0, from, 0);  // the same for every row
      _tile_loadd(1, from + kLanes, 0);
      _tile_loadd(2, from_second, 0);
      _tile_loadd(3, from_second + kLanes, 0);
      for (int64_t i = 0; i < size; i += 64) {
        _tile_loadd(4, codes + i, size);
        _tile_loadd(5, first + 32 * i, 64);
        _tile_loadd(6, first + 32 * i + 1024, 64);
        _tile_dpbusd(0, 4, 5);
        _tile_dpbusd(1, 4, 6);
        if (block == last) continue;
        _tile_loadd(5, second + 32 * i, 64);
        _tile_loadd(6, second + 32 * i + 1024, 64);
        _tile_dpbusd(2, 4, 5);
        _tile_dpbusd(3, 4, 6);
      }
      _tile_stored(0, sums, 64);
      _tile_stored(1, sums + 256, 64);
      _tile_stored(2, sums + 512, 64);
      _tile_stored(3, sums + 768, 64);
      written();
      for (int64_t of = block; of <= std::min(block + 1, last); ++of)
        store_block(of, sums + 512 * (of - block), scale, z, z_stride);
    }
  }

  // Sums (16 rows, 16 queries) of high bytes, then of low ones, to scores.
  void store_block(int64_t block, const int32_t* sums, f32 scale, float* z, int64_t z_stride) const {
    f32 scores[kLanes];
    for (int r = 0; r < kLanes; ++r)
      scores[r] = to_floats(read<i32>(sums + r * kLanes)) * 256.0f +
                  to_floats(read<i32>(sums + 256 + r * kLanes));
    transpose(scores);
    const int64_t first = block * kLanes;
    for (int64_t i = 0; i < std::min<int64_t>(kLanes, a.count_queries - first); ++i)
      store(z + (first + i) * z_stride, scores_of(scores[i], scale, first + i), All{});
  }
#endif

  // Sixteen rows with kQueries queries, kRows rows at a time.
  template <int kRows, int kQueries>
  void products(const uint8_t* const* codes, f32 scale, int64_t query, float* z,
                int64_t z_stride) const {
    f32 total[kQueries][kLanes];
    const int8_t* q = queries.data() + 2 * size * query;
    for (int r = 0; r < kLanes; r += kRows) {
      i32 high[kRows][kQueries], low[kRows][kQueries];
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kQueries; ++j)
          high[i][j] = bias[2 * (query + j)], low[i][j] = bias[2 * (query + j) + 1];
      for (int64_t at = 0; at < size; at += 64)
        for (int j = 0; j < kQueries; ++j)
          for (int i = 0; i < kRows; ++i) {
            const u32 of_row = read<u32>(codes[r + i] + at);
            high[i][j] = dot_add<kSmall>(high[i][j], of_row, q + 2 * size * j + at);
            low[i][j] = dot_add<kSmall>(low[i][j], of_row, q + 2 * size * j + size + at);
          }
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kQueries; ++j)
          total[j][r + i] = to_floats(high[i][j]) * 256.0f + to_floats(low[i][j]);
    }
    for (int j = 0; j < kQueries; ++j)
      store(z + (query + j) * z_stride, scores_of(sums(total[j]), scale, query + j), All{});
  }
};

// Takes a block of scores into a running maximum and sum of exponentials.
METASD_INLINE void add_exponentials(const float* z, int64_t count, float inverse_temperature,
                                    float& max, float& total) {
  f32 largest = splat(max);
  vectors(0, count, [&](int64_t j, auto lanes) METASD_LAMBDA {
    largest = larger(largest, keep(load(z + j, lanes) * inverse_temperature, -INFINITY, lanes));
  });
  const float top = horizontal_max(largest);
  if (!(std::fabs(top) < INFINITY)) {
    max = top;
    return;
  }
  f32 sum{};
  vectors(0, count, [&](int64_t j, auto lanes) METASD_LAMBDA {
    const f32 x = keep(load(z + j, lanes) * inverse_temperature, -INFINITY, lanes) - top;
    sum += exp_nonpositive<float>(chosen(x > 0.0f, splat(0.0f), x));  // a fused product may round above
  });
  total = total * std::exp(max - top) + horizontal_sum(sum);
  max = top;
}

template <class Kernel>
int64_t score_by(const ScoreArgs& a) {
  const Kernel kernel(a);
  const int64_t strips = (a.count + kLanes - 1) / kLanes;
  const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(a.threads, strips)));
  const int64_t wanted = kBlockBytes / static_cast<int64_t>(sizeof(float) * kLanes) / a.count_queries;
  const int64_t block = std::max<int64_t>(1, std::min(wanted, strips)), stride = block * kLanes;
  std::vector<float> best(threads * a.count_queries * a.k, -INFINITY);
  std::vector<int64_t> best_index(threads * a.count_queries * a.k, -1);
  std::vector<Scratch> scratch(threads);
  for (Scratch& s : scratch) {
    kernel.prepare(s);
    s.block.resize(a.count_queries * stride);
    if (!a.logsumexp) continue;
    s.max.assign(a.count_queries, -INFINITY);
    s.total.assign(a.count_queries, 0.0f);
  }
  int64_t nan = 0;
  parallel_ranges(strips, threads, [&](int64_t begin, int64_t end, int thread) {
    Scratch& s = scratch[thread];
    float* z = s.block.data();
#if METASD_TILES
    const Tiles registers;
#endif
    for (int64_t from = begin; from < end; from += block) {
      const int64_t to = std::min(from + block, end);
      const int64_t first = from * kLanes, count = std::min(to * kLanes, a.count) - first;
      for (int64_t at = 0; at < count; at += kLanes) {
        const int height = static_cast<int>(std::min<int64_t>(kLanes, count - at));
        int64_t rows[kLanes];
        for (int i = 0; i < height; ++i)
          rows[i] = a.first + (a.rows ? a.rows[first + at + i] : first + at + i);
        kernel.strip(rows, height, z + at, stride, s);
      }
      if (a.logsumexp)
        for (int64_t query = 0; query < a.count_queries; ++query)
          add_exponentials(z + query * stride, count, a.inverse_temperature, s.max[query],
                           s.total[query]);
      if (a.k == 0) {
        for (int64_t query = 0; query < a.count_queries; ++query)
          std::copy_n(z + query * stride, count, a.scores + query * a.count + first);
        continue;
      }
      const int64_t offset = thread * a.count_queries * a.k;
      const int64_t found = passes().topk(
          {z, false, a.count_queries, count, stride, first, a.k, a.known_indptr, a.known_indices,
           best.data() + offset, best_index.data() + offset, false, 1});
      if (found) __atomic_fetch_add(&nan, found, __ATOMIC_RELAXED);
    }
  });
  if (a.k) merge_best(a, best, best_index, threads);
  if (a.logsumexp)
    for (int64_t query = 0; query < a.count_queries; ++query) {
      float max = -INFINITY, total = 0;
      for (const Scratch& s : scratch) max = std::max(max, s.max[query]);
      for (const Scratch& s : scratch)
        if (s.total[query] > 0) total += s.total[query] * std::exp(s.max[query] - max);
      a.logsumexp[query] = max + std::log(total);
    }
  return nan;
}

// Calls body with the kind of a table's numbers as a constant.
template <class Body>
auto with_kind(Values kind, Body body) {
  switch (kind) {
    case Values::kF32: return body(std::integral_constant<Values, Values::kF32>{});
    case Values::kF16: return body(std::integral_constant<Values, Values::kF16>{});
    case Values::kBF16: return body(std::integral_constant<Values, Values::kBF16>{});
    default: return body(std::integral_constant<Values, Values::kI8>{});
  }
}

int64_t score(const ScoreArgs& a) {
  switch (a.table.kind) {
    case Values::kU8: return score_by<Codes<Values::kU8>>(a);
    case Values::kU4: return score_by<Codes<Values::kU4>>(a);
    case Values::kHalf3: return score_by<Codes<Values::kHalf3>>(a);
    case Values::kHalf2: return score_by<Codes<Values::kHalf2>>(a);
    case Values::kU2: return score_by<Codes<Values::kU2>>(a);
    default: break;
  }
  return with_kind(a.table.kind, [&](auto kind) { return score_by<Numbers<kind()>>(a); });
}

template <Values kKind>
void decode_numbers(const CodedTable& t, const int64_t* rows, int64_t count, float* out) {
  Scratch s;
  s.index.resize(whole_vectors(t.width) + kLanes);
  for (int64_t r = 0; r < count; ++r, out += t.width) {
    const Row row = read_row<kKind>(t, rows[r], s);
    const float scale = t.scale ? t.scale[rows[r]] : 1.0f;
    std::fill_n(out, t.width, 0.0f);
    for (int64_t i = 0; i < row.count; i += kLanes) {
      const f32 v = values_at<kKind>(row.values, i) * scale;
      const int64_t end = std::min<int64_t>(kLanes, row.count - i);
      for (int64_t lane = 0; lane < end; ++lane)
        out[row.index ? row.index[i + lane] : i + lane] = v[lane];
    }
  }
}

void decode(const CodedTable& t, const int64_t* rows, int64_t count, float* out) {
  const int bits = static_cast<int>(value_bits(t.kind));
  if (t.kind >= Values::kU8) {
    const int64_t bytes = row_bytes(t), share = t.kind == Values::kHalf3 ? bytes / 3 : bytes;
    const int offset = code_offset(t.kind);
    const float half = halves(t.kind) ? 0.5f : 0.0f;
    for (int64_t r = 0; r < count; ++r) {
      const uint8_t* row = t.values + rows[r] * bytes;
      for (int64_t j = 0; j < t.width; ++j) {
        const int64_t p = j / share, i = j % share;
        const int code = t.kind == Values::kHalf3
                             ? (row[p % 2 * share + i] >> (p / 2 * 2) & 3) | (row[2 * share + i] >> p & 1) << 2
                             : row[i] >> (bits * p) & ((1 << bits) - 1);
        out[r * t.width + j] = (static_cast<float>(code - offset) + half) * t.scale[rows[r]];
      }
    }
    return;
  }
  with_kind(t.kind, [&](auto kind) { decode_numbers<kind()>(t, rows, count, out); });
}

// Whether the bit patterns of `count` values are finite numbers, or codes that exist.
METASD_INLINE bool values_are_good(const CodedTable& t, int64_t begin, int64_t count) {
  unsigned bad = 0;
  if (t.kind == Values::kF32) {
    const uint8_t* from = t.values + 4 * begin;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, from + 4 * i, 4);
      bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
  } else if (t.kind == Values::kF16 || t.kind == Values::kBF16) {
    const unsigned exponent = t.kind == Values::kF16 ? 0x7c00 : 0x7f80;
    const uint8_t* from = t.values + 2 * begin;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits;
      std::memcpy(&bits, from + 2 * i, 2);
      bad |= (bits & exponent) == exponent;
    }
  } else if (t.kind == Values::kU2) {
    for (int64_t i = 0; i < count; ++i) bad |= t.values[begin + i] & (t.values[begin + i] >> 1) & 0x55;
  }
  return !bad;
}

METASD_INLINE bool columns_are_good(const CodedTable& t, int64_t row) {
  const int64_t begin = t.indptr[row], count = t.indptr[row + 1] - begin;
  if (t.code == Columns::kDelta8) {
    int64_t last = count - 1;
    for (int64_t i = 0; i < count; ++i) last += t.columns[begin + i];
    return last < t.width;
  }
  if (t.code == Columns::kIndex16) {
    int64_t last = -1, good = 1;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t column;
      std::memcpy(&column, t.columns + 2 * (begin + i), 2);
      good &= column > last;
      last = column;
    }
    return good && last < t.width;
  }
  const int64_t bytes = (t.width + 7) / 8;
  int64_t set = 0;
  for (int64_t i = 0; i < bytes; ++i) set += __builtin_popcount(t.columns[row * bytes + i]);
  const bool padding = t.width % 8 && t.columns[row * bytes + bytes - 1] >> (t.width % 8);
  return set == count && !padding;
}

int64_t check(const CodedTable& t, int threads) {
  int64_t wrong = t.rows;
  const int64_t bytes = t.code == Columns::kAll ? row_bytes(t) : 0;
  const int64_t size = value_bits(t.kind) / 8;
  const int64_t stored = size ? t.value_bytes / size : 0;
  parallel_ranges(t.rows, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      bool good = !t.scale || (std::fabs(t.scale[row]) < INFINITY && t.scale[row] >= 0);
      if (t.code == Columns::kAll) {
        const int64_t values = value_bits(t.kind) < 8 ? bytes : t.width;
        good = good && values_are_good(t, row * values, values);
      } else {
        const int64_t first = t.indptr[row], last = t.indptr[row + 1];
        good = good && (row || first == 0) && first <= last && last <= stored &&
               last - first <= t.width && columns_are_good(t, row) &&
               values_are_good(t, first, last - first);
      }
      if (good) continue;
      int64_t seen = __atomic_load_n(&wrong, __ATOMIC_RELAXED);
      while (row < seen && !__atomic_compare_exchange_n(&wrong, &seen, row, false, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
      }
      return;
    }
  });
  return wrong < t.rows ? wrong : -1;
}
