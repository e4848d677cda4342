// Sixteen-lane vectors, written once. This file is included inside one namespace per instruction set
// (see isa.cpp). With AVX-512 a vector is one of the compiler's own; else it is several that the
// processor has registers for, since GCC takes vectors that are too long apart number by number.

constexpr int kLanes = 16;

#if METASD_LEVEL >= 512
using f32 = float __attribute__((vector_size(64)));
using i32 = int32_t __attribute__((vector_size(64)));
using u32 = uint32_t __attribute__((vector_size(64)));
using u16 = uint16_t __attribute__((vector_size(32)));
#else
#define METASD_EACH(operation)                                                  \
  friend METASD_INLINE_MEMBER Vector operator operation(Vector a, Vector b) {   \
    for (int k = 0; k < kParts; ++k) a.part[k] = a.part[k] operation b.part[k]; \
    return a;                                                                   \
  }
#define METASD_COMPARE(operation)                                                      \
  friend METASD_INLINE_MEMBER Vector<int32_t> operator operation(Vector a, Vector b) { \
    Vector<int32_t> found;                                                             \
    for (int k = 0; k < kParts; ++k)                                                   \
      found.part[k] = (typename Vector<int32_t>::Part)(a.part[k] operation b.part[k]); \
    return found;                                                                      \
  }
constexpr int kPartBytes = METASD_LEVEL >= 256 ? 32 : 16;

// Sixteen numbers in registers, with the operators of the compiler's vectors; a cast keeps the bits.
template <class T>
struct Vector {
  using Part [[gnu::vector_size(kPartBytes)]] = T;
  static constexpr int kParts = kLanes * sizeof(T) / kPartBytes;
  Part part[kParts];

  Vector() = default;
  // Register by register: the compiler's own copies are of 16 bytes, which longer loads wait for.
  METASD_INLINE_MEMBER Vector(const Vector& other) { *this = other; }
  METASD_INLINE_MEMBER Vector& operator=(const Vector& other) {
    for (int k = 0; k < kParts; ++k) part[k] = other.part[k];
    return *this;
  }
  METASD_INLINE_MEMBER Vector(T x) {
    for (Part& p : part) p = x - Part{};
  }
  template <class U>
  METASD_INLINE_MEMBER explicit Vector(const Vector<U>& bits) {
    static_assert(sizeof bits.part == sizeof part);
    for (int k = 0; k < kParts; ++k) part[k] = (Part)bits.part[k];
  }
  METASD_INLINE_MEMBER T operator[](int i) const {
    constexpr int lanes = kPartBytes / sizeof(T);
    return part[i / lanes][i % lanes];
  }
  METASD_INLINE_MEMBER T& operator[](int i) { return reinterpret_cast<T*>(part)[i]; }

  METASD_EACH(+)
  METASD_EACH(-)
  METASD_EACH(*)
  METASD_EACH(/)
  METASD_EACH(&)
  METASD_EACH(|)
  METASD_EACH(^)
  METASD_EACH(<<)
  METASD_EACH(>>)
  METASD_COMPARE(<)
  METASD_COMPARE(<=)
  METASD_COMPARE(>)
  METASD_COMPARE(>=)
  METASD_COMPARE(==)
  METASD_COMPARE(!=)
  METASD_INLINE_MEMBER Vector operator-() const { return Vector{} - *this; }
  METASD_INLINE_MEMBER Vector& operator+=(Vector b) { return *this = *this + b; }
  METASD_INLINE_MEMBER Vector& operator-=(Vector b) { return *this = *this - b; }
  METASD_INLINE_MEMBER Vector& operator*=(Vector b) { return *this = *this * b; }
  METASD_INLINE_MEMBER Vector& operator^=(Vector b) { return *this = *this ^ b; }
};
using f32 = Vector<float>;
using i32 = Vector<int32_t>;
using u32 = Vector<uint32_t>;
using u16 = Vector<uint16_t>;
#endif

// How many of the sixteen lanes of a load exist: all of them, or the first `count` at a row's end.
struct All {};
struct First {
  int count;
};

METASD_INLINE int lane_count(All) { return kLanes; }
METASD_INLINE int lane_count(First lanes) { return lanes.count; }

// What lies at an address, as registers: copied as bytes it would go through memory once more.
#if METASD_LEVEL >= 512
template <class V>
METASD_INLINE V read(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
METASD_INLINE void write(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
#else
template <class V>
METASD_INLINE V read(const void* p) {
  V v;
  for (int k = 0; k < V::kParts; ++k)
    __builtin_memcpy(&v.part[k], static_cast<const char*>(p) + k * kPartBytes, kPartBytes);
  return v;
}
template <class V>
METASD_INLINE void write(void* p, V v) {
  for (int k = 0; k < V::kParts; ++k)
    __builtin_memcpy(static_cast<char*>(p) + k * kPartBytes, &v.part[k], kPartBytes);
}
#endif

METASD_INLINE f32 splat(float x) { return x - f32{}; }  // x + 0 is no copy of -0

METASD_INLINE i32 lane_ids() {
  constexpr int32_t ids[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return read<i32>(ids);
}

// Lane by lane a where the condition holds, else b.
#if METASD_LEVEL >= 512
template <class V>
METASD_INLINE V chosen(i32 condition, V a, V b) {
  return condition ? a : b;
}
METASD_INLINE u32 widen_bits(u16 half) { return (u32)_mm512_cvtepu16_epi32((__m256i)half); }
METASD_INLINE u16 narrow_bits(u32 bits) { return __builtin_convertvector(bits, u16); }
METASD_INLINE f32 to_floats(i32 v) { return __builtin_convertvector(v, f32); }
METASD_INLINE f32 larger(f32 a, f32 b) { return (f32)_mm512_max_ps((__m512)a, (__m512)b); }
#else
template <class V>
METASD_INLINE V chosen(i32 condition, V a, V b) {
  for (int k = 0; k < V::kParts; ++k) a.part[k] = condition.part[k] ? a.part[k] : b.part[k];
  return a;
}
using half_part = uint16_t __attribute__((vector_size(kPartBytes / 2)));
METASD_INLINE u32 widen_bits(u16 half) {
  u32 bits;
  for (int k = 0; k < u32::kParts; ++k) {
    half_part from;
    __builtin_memcpy(&from, reinterpret_cast<const char*>(&half) + k * sizeof from, sizeof from);
    bits.part[k] = __builtin_convertvector(from, u32::Part);
  }
  return bits;
}
METASD_INLINE u16 narrow_bits(u32 bits) {
  u16 half;
  for (int k = 0; k < u32::kParts; ++k) {
    const half_part to = __builtin_convertvector(bits.part[k], half_part);
    __builtin_memcpy(reinterpret_cast<char*>(&half) + k * sizeof to, &to, sizeof to);
  }
  return half;
}
METASD_INLINE f32 to_floats(i32 v) {
  f32 out;
  for (int k = 0; k < f32::kParts; ++k) out.part[k] = __builtin_convertvector(v.part[k], f32::Part);
  return out;
}
METASD_INLINE f32 larger(f32 a, f32 b) { return chosen(a > b, a, b); }
#endif

METASD_INLINE f32 widen(u16 half) { return (f32)(widen_bits(half) << 16); }

#if METASD_LEVEL == 513
METASD_INLINE u16 narrow(f32 v) { return (u16)_mm512_cvtneps_pbh((__m512)v); }
#else
// Round to nearest even; a NaN stays a NaN (the rounding increment could carry it into an infinity).
METASD_INLINE u16 narrow(f32 v) {
  u32 bits = (u32)v;
  bits += 0x7fffu + ((bits >> 16) & 1u);
  bits = chosen(v == v, bits, u32{} + 0x7fc00000u);
  return narrow_bits(bits >> 16);
}
#endif

METASD_INLINE f32 load(const float* p, All) { return read<f32>(p); }
METASD_INLINE f32 load(const float* p, First lanes) {
  f32 v{};
  __builtin_memcpy(static_cast<void*>(&v), p, sizeof(float) * lanes.count);
  return v;
}
METASD_INLINE f32 load(const bf16* p, All) { return widen(read<u16>(p)); }
METASD_INLINE f32 load(const bf16* p, First lanes) {
  u16 v{};
  __builtin_memcpy(static_cast<void*>(&v), p, sizeof(bf16) * lanes.count);
  return widen(v);
}
METASD_INLINE void store(float* p, f32 v, All) { write(p, v); }
METASD_INLINE void store(float* p, f32 v, First lanes) {
  __builtin_memcpy(p, &v, sizeof(float) * lanes.count);
}
METASD_INLINE void store(bf16* p, f32 v, All) { write(p, narrow(v)); }
METASD_INLINE void store(bf16* p, f32 v, First lanes) {
  u16 half = narrow(v);
  __builtin_memcpy(p, &half, sizeof(bf16) * lanes.count);
}

// The lanes that exist, and `other` in those that do not.
METASD_INLINE f32 root(f32 x) {
#if METASD_LEVEL >= 512
  return (f32)_mm512_sqrt_ps((__m512)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

METASD_INLINE f32 keep(f32 v, float, All) { return v; }
METASD_INLINE f32 keep(f32 v, float other, First lanes) {
  return chosen(lane_ids() < lanes.count, v, splat(other));
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
// Bit i is lane i of a condition.
METASD_INLINE uint32_t bits_of(i32 condition) {
#if METASD_LEVEL >= 512
  return _mm512_movepi32_mask((__m512i)condition);
#elif METASD_LEVEL >= 256
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)condition.part[0]) |
                               _mm256_movemask_ps((__m256)condition.part[1]) << 8);
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(condition[i] & 1) << i;
  return bits;
#endif
}
METASD_INLINE bool any(i32 condition) {
#if METASD_LEVEL >= 256
  return bits_of(condition) != 0;
#else
  uint64_t words[8];
  __builtin_memcpy(words, &condition, sizeof words);
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
  return chosen(x < -80.0f, splat(0.0f), e * power);
}

// Lane i is lane from[i] of a and b together, as many lanes as each has.
#ifdef __clang__  // which has no __builtin_shuffle, but finds shuffles whose lanes are constants
template <class V, class I>
METASD_INLINE V pick(V a, V b, I from) {
  constexpr int lanes = sizeof a / sizeof a[0];
  V picked;
  for (int i = 0; i < lanes; ++i) picked[i] = from[i] < lanes ? a[from[i]] : b[from[i] - lanes];
  return picked;
}
#else
template <class V, class I>
METASD_INLINE V pick(V a, V b, I from) {
  return __builtin_shuffle(a, b, from);
}
#endif

// Transposes as many of the compiler's vectors as each has lanes: halves trade places at half that
// distance, then at a quarter, down to 1.
template <class I, int kSize, int kDistance = kSize / 2, class V>
METASD_INLINE void transpose_square(V (&rows)[kSize]) {
  I lane;
  for (int i = 0; i < kSize; ++i) lane[i] = i;
  const I low = (lane & kDistance) == 0;
  const I first = low ? lane : lane - kDistance + kSize;
  const I second = low ? lane + kDistance : lane + kSize;
  for (int i = 0; i < kSize; ++i) {
    if (i & kDistance) continue;
    const V a = rows[i], b = rows[i + kDistance];
    rows[i] = pick(a, b, first);
    rows[i + kDistance] = pick(a, b, second);
  }
  if constexpr (kDistance > 1) transpose_square<I, kSize, kDistance / 2>(rows);
}
METASD_INLINE void transpose(f32 (&rows)[kLanes]) {
#if METASD_LEVEL >= 512
  transpose_square<i32, kLanes>(rows);
#else
  constexpr int size = kLanes / f32::kParts;
  f32 out[kLanes];
  for (int i = 0; i < f32::kParts; ++i)
    for (int j = 0; j < f32::kParts; ++j) {
      f32::Part square[size];
      for (int r = 0; r < size; ++r) square[r] = rows[i * size + r].part[j];
      transpose_square<i32::Part, size>(square);
      for (int r = 0; r < size; ++r) out[j * size + r].part[i] = square[r];
    }
  for (int r = 0; r < kLanes; ++r) rows[r] = out[r];
#endif
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

// The 16 mask bits of columns j .. j + 15 of a row, as a lane condition.
METASD_INLINE i32 mask_at(const uint32_t* words, int64_t j) {
  return mask_lanes(words[j / 32], static_cast<int>(j / kLanes % 2));
}
