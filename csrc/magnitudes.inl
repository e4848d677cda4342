// Passes over the magnitudes of weights for topk_mask.cpp. Included once per instruction set.

// The 16 condition bits of a vector, lane 0 lowest.
METASD_INLINE uint32_t bits_of(i32 condition) {
#if METASD_LEVEL >= 512
  return _mm512_movepi32_mask((__m512i)condition);
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(condition[i] & 1) << i;
  return bits;
#endif
}

template <class Lanes>
METASD_INLINE u32 magnitude_bits(const float* p, Lanes lanes) {
  return (u32)load(p, lanes) & 0x7fffffffu;
}

// Lanes that exist.
METASD_INLINE i32 real(All) { return i32{} == 0; }
METASD_INLINE i32 real(First lanes) { return lane_ids() < lanes.count; }

void scan_magnitudes(const float* weights, int64_t count, MagnitudeScan& scan) {
  const u32 low = u32{} + scan.low, high = u32{} + scan.high, width = high - low;
  i32 nan{};
  int64_t above = 0;
  vectors(0, count, [&](int64_t j, auto lanes) METASD_LAMBDA {
    const u32 bits = magnitude_bits(weights + j, lanes);
    nan |= bits > 0x7f800000u;  // above infinity
    above += __builtin_popcount(bits_of(bits > high));
    const i32 within = (bits - low <= width) & real(lanes);
    if (!any(within)) return;
    scan.at_low += __builtin_popcount(bits_of((bits == low) & within));
    if (scan.low == scan.high) return;
    scan.at_high += __builtin_popcount(bits_of(bits == high));
    for (uint32_t rest = bits_of((bits > low) & (bits < high)); rest; rest &= rest - 1) {
      if (scan.found < scan.room) scan.between[scan.found] = bits[__builtin_ctz(rest)];
      ++scan.found;
    }
  });
  scan.above += above;
  scan.nan |= any(nan);
}

// Bits of the weights above the threshold, and of the first `ties` (counted down) of those equal to it.
void write_mask(const float* weights, int64_t count, uint32_t threshold, int64_t& ties, uint32_t* mask) {
  const auto half = [&](int64_t j, auto lanes) METASD_LAMBDA {
    const u32 bits = magnitude_bits(weights + j, lanes);
    uint32_t kept = bits_of((bits > threshold) & real(lanes));
    uint32_t equal = ties > 0 ? bits_of((bits == threshold) & real(lanes)) : 0;
    for (; equal && ties > 0; equal &= equal - 1, --ties) kept |= equal & -equal;
    return kept;
  };
  int64_t j = 0;
  for (; j + 32 <= count; j += 32) {
    const uint32_t low = half(j, All{});
    *mask++ = low | half(j + kLanes, All{}) << kLanes;
  }
  const int rest = static_cast<int>(count - j);
  if (rest == 0) return;
  uint32_t word = half(j, First{rest < kLanes ? rest : kLanes});
  if (rest > kLanes) word |= half(j + kLanes, First{rest - kLanes}) << kLanes;
  *mask = word;
}
