// Sixteen-lane vectors, written once with GCC vector extensions. This file is included inside one
// namespace per instruction set (see isa.cpp); the compiler lowers the same code to AVX-512, to two
// AVX2 registers or to four SSE registers.

using f32 = float __attribute__((vector_size(64)));
using i32 = int32_t __attribute__((vector_size(64)));
using u32 = uint32_t __attribute__((vector_size(64)));
using u16 = uint16_t __attribute__((vector_size(32)));

constexpr int kLanes = 16;

// How many of the sixteen lanes of a load exist: all of them, or the first `count` at a row's end.
struct All {};
struct First {
  int count;
};

METASD_INLINE int lane_count(All) { return kLanes; }
METASD_INLINE int lane_count(First lanes) { return lanes.count; }

METASD_INLINE f32 splat(float x) { return f32{} + x; }

METASD_INLINE i32 lane_ids() {
  return i32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

// Operations that the compiler does not find by itself in what follows.
#if METASD_LEVEL >= 512
METASD_INLINE u32 widen_bits(u16 half) { return (u32)_mm512_cvtepu16_epi32((__m256i)half); }
METASD_INLINE f32 larger(f32 a, f32 b) { return (f32)_mm512_max_ps((__m512)a, (__m512)b); }
#else
METASD_INLINE u32 widen_bits(u16 half) { return __builtin_convertvector(half, u32); }
METASD_INLINE f32 larger(f32 a, f32 b) { return a > b ? a : b; }
#endif

METASD_INLINE f32 widen(u16 half) { return (f32)(widen_bits(half) << 16); }

#if METASD_LEVEL == 513
METASD_INLINE u16 narrow(f32 v) { return (u16)_mm512_cvtneps_pbh((__m512)v); }
#else
// Round to nearest even; a NaN stays a NaN (the rounding increment could carry it into an infinity).
METASD_INLINE u16 narrow(f32 v) {
  u32 bits = (u32)v;
  bits += 0x7fffu + ((bits >> 16) & 1u);
  bits = v == v ? bits : u32{} + 0x7fc00000u;
  return __builtin_convertvector(bits >> 16, u16);
}
#endif

METASD_INLINE f32 load(const float* p, All) {
  f32 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
METASD_INLINE f32 load(const float* p, First lanes) {
  f32 v{};
  __builtin_memcpy(&v, p, sizeof(float) * lanes.count);
  return v;
}
METASD_INLINE f32 load(const bf16* p, All) {
  u16 v;
  __builtin_memcpy(&v, p, sizeof v);
  return widen(v);
}
METASD_INLINE f32 load(const bf16* p, First lanes) {
  u16 v{};
  __builtin_memcpy(&v, p, sizeof(bf16) * lanes.count);
  return widen(v);
}
METASD_INLINE void store(float* p, f32 v, All) { __builtin_memcpy(p, &v, sizeof v); }
METASD_INLINE void store(float* p, f32 v, First lanes) {
  __builtin_memcpy(p, &v, sizeof(float) * lanes.count);
}
METASD_INLINE void store(bf16* p, f32 v, All) {
  u16 half = narrow(v);
  __builtin_memcpy(p, &half, sizeof half);
}
METASD_INLINE void store(bf16* p, f32 v, First lanes) {
  u16 half = narrow(v);
  __builtin_memcpy(p, &half, sizeof(bf16) * lanes.count);
}

// The lanes that exist, and `other` in those that do not.
METASD_INLINE f32 keep(f32 v, float, All) { return v; }
METASD_INLINE f32 keep(f32 v, float other, First lanes) {
  return lane_ids() < lanes.count ? v : splat(other);
}

METASD_INLINE float horizontal_max(f32 v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}
METASD_INLINE float horizontal_sum(f32 v) {
  float sums[kLanes];
  __builtin_memcpy(sums, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
  return sums[0];
}
METASD_INLINE bool any(i32 condition) {
#if METASD_LEVEL >= 512
  return _mm512_movepi32_mask((__m512i)condition) != 0;
#else
  uint64_t words[8];
  __builtin_memcpy(words, &condition, sizeof condition);
  return (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0;
#endif
}
METASD_INLINE int64_t count_true(i32 condition) {
  int64_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum -= condition[i];
  return sum;
}

// exp(x) for x <= 0, exactly 0 below -80 (a softmax term of 1e-35). x = n ln 2 + r, and
// exp(r) = 1 + r + r^2 p(r) with p fitted for the least relative error on |r| <= ln(2) / 2; adding
// 1.5 * 2^23 + 127 rounds to an integer and leaves n + 127, the exponent of 2^n, in the low bits.
// Relative error for fp32 scores below 2.5e-7; for bf16 scores, which carry 4e-3 themselves, below
// 8e-6 with half the polynomial.
template <class T>
METASD_INLINE f32 exp_nonpositive(f32 x) {
  const f32 shifted = x * 1.44269504088896341f + 12583039.0f;
  const f32 n = shifted - 12583039.0f;
  f32 r, p;
  if constexpr (sizeof(T) == sizeof(float)) {
    r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    p = splat(0x1.6a2434p-10f);
    p = p * r + 0x1.1239e2p-7f;
    p = p * r + 0x1.5558f2p-5f;
    p = p * r + 0x1.555492p-3f;
    p = p * r + 0x1.fffffcp-2f;
  } else {
    r = x - n * 0.69314718056f;
    p = splat(0x1.52258ep-5f);
    p = p * r + 0x1.571cc2p-3f;
    p = p * r + 0x1.0006b6p-1f;
  }
  const f32 e = (r * r) * p + r + 1.0f;
  const f32 power = (f32)((i32)shifted << 23);  // 2^n; a product, so that a NaN stays one
  return x < -80.0f ? splat(0.0f) : e * power;
}

// Lane i is lane from[i] of a and b together, sixteen lanes each.
#ifdef __clang__  // which has no __builtin_shuffle, but finds shuffles whose lanes are constants
METASD_INLINE f32 pick(f32 a, f32 b, i32 from) {
  f32 picked;
  for (int i = 0; i < kLanes; ++i) picked[i] = from[i] < kLanes ? a[from[i]] : b[from[i] - kLanes];
  return picked;
}
#else
METASD_INLINE f32 pick(f32 a, f32 b, i32 from) { return __builtin_shuffle(a, b, from); }
#endif

// Transposes sixteen vectors of sixteen: halves trade places at distance 8, then 4, 2 and 1.
template <int kDistance = kLanes / 2>
METASD_INLINE void transpose(f32 (&rows)[kLanes]) {
  const i32 lane = lane_ids(), low = (lane & kDistance) == 0;
  const i32 first = low ? lane : lane - kDistance + kLanes;
  const i32 second = low ? lane + kDistance : lane + kLanes;
  for (int i = 0; i < kLanes; ++i) {
    if (i & kDistance) continue;
    const f32 a = rows[i], b = rows[i + kDistance];
    rows[i] = pick(a, b, first);
    rows[i + kDistance] = pick(a, b, second);
  }
  if constexpr (kDistance > 1) transpose<kDistance / 2>(rows);
}

// Calls body(j, lanes) for j = begin, begin + 16, ...; the last call may have fewer lanes.
template <class Body>
METASD_INLINE void vectors(int64_t begin, int64_t end, Body body) {
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) body(j, All{});
  if (j < end) body(j, First{static_cast<int>(end - j)});
}

// Bits `16 * half ...` of a mask word as a lane condition (all ones where the weight is kept).
METASD_INLINE i32 mask_lanes(uint32_t word, int half) {
  u32 bit = ((u32{} + (word >> (kLanes * half))) >> (u32)lane_ids()) & 1u;
  return -(i32)bit;
}
