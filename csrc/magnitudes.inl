// Passes over the magnitudes of weights for topk_mask.cpp. Included once per instruction set.

template <class Lanes>
METASD_INLINE u32 magnitude_bits(const float* p, Lanes lanes) {
  return (u32)load(p, lanes) & kMagnitudeBits;
}

// Calls body(j, word, bits) for each mask word of `count` weights j, j + 1, ... where bits(condition) packs
// what holds of their magnitudes, condition(vector), into 32 bits.
template <class Body>
METASD_INLINE void mask_words(const float* weights, int64_t count, uint32_t* mask, Body body) {
  constexpr int64_t kAhead = 512;  // the processor's own prefetching stops at every page
  int64_t j = 0;
  for (; j + 32 <= count; j += 32, ++mask) {
    __builtin_prefetch(weights + j + kAhead);
    __builtin_prefetch(weights + j + kAhead + kLanes);
    const u32 low = magnitude_bits(weights + j, All{}), high = magnitude_bits(weights + j + kLanes, All{});
    body(j, mask, [&](auto condition) METASD_LAMBDA {
      return bits_of(condition(low)) | bits_of(condition(high)) << kLanes;
    });
  }
  const int rest = static_cast<int>(count - j);
  if (rest == 0) return;
  const u32 low = magnitude_bits(weights + j, First{rest < kLanes ? rest : kLanes});
  const u32 high = rest > kLanes ? magnitude_bits(weights + j + kLanes, First{rest - kLanes}) : u32{};
  body(j, mask, [&](auto condition) METASD_LAMBDA {
    return (bits_of(condition(low)) | bits_of(condition(high)) << kLanes) & ((1u << rest) - 1);
  });
}

// Also writes the bits of the weights not below `high`.
void scan_magnitudes(const float* weights, int64_t count, MagnitudeScan& scan, uint32_t* mask) {
  const u32 low = u32{} + scan.low, high = u32{} + scan.high;
  int64_t above = 0;
  uint32_t nan = 0;
  mask_words(weights, count, mask, [&](int64_t j, uint32_t* word, auto bits) METASD_LAMBDA {
    nan |= bits([](u32 m) METASD_LAMBDA { return m > 0x7f800000u; });  // above infinity
    const uint32_t over = bits([&](u32 m) METASD_LAMBDA { return m > high; });
    const uint32_t from_low = bits([&](u32 m) METASD_LAMBDA { return m >= low; });
    above += __builtin_popcount(over);
    *word = over;
    if (over == from_low) return;
    const uint32_t at_low = bits([&](u32 m) METASD_LAMBDA { return m == low; });
    scan.at_low += __builtin_popcount(at_low);
    if (scan.low == scan.high) return;
    const uint32_t at_high = bits([&](u32 m) METASD_LAMBDA { return m == high; });
    scan.at_high += __builtin_popcount(at_high);
    *word |= at_high;
    for (uint32_t rest = from_low & ~(over | at_low | at_high); rest; rest &= rest - 1) {
      if (scan.found < scan.room)
        scan.between[scan.found] = {magnitude_of(weights + j + __builtin_ctz(rest)), rest & -rest, word};
      ++scan.found;
    }
  });
  scan.above += above;
  scan.nan |= nan != 0;
}

// Bits of the weights above the threshold, and of the first `ties` (counted down) of those equal to it.
void write_mask(const float* weights, int64_t count, uint32_t threshold, int64_t& ties, uint32_t* mask) {
  mask_words(weights, count, mask, [&](int64_t, uint32_t* word, auto bits) METASD_LAMBDA {
    *word = bits([&](u32 m) METASD_LAMBDA { return m > threshold; });
    if (ties <= 0) return;
    uint32_t equal = bits([&](u32 m) METASD_LAMBDA { return m == threshold; });
    for (; equal && ties > 0; equal &= equal - 1, --ties) *word |= equal & -equal;
  });
}

// The mask is only counted along. A first look finds all weights in the bins, later ones next to none.
void count_magnitudes(const float* weights, int64_t count, MagnitudeCounts& into, uint32_t* mask) {
  const uint32_t low = into.low, bins = into.bins;
  const int shift = into.shift;
  int64_t* counts = into.counts;
  uint32_t nan = 0;
  mask_words(weights, count, mask, [&](int64_t j, uint32_t*, auto bits) METASD_LAMBDA {
    nan |= bits([](u32 m) METASD_LAMBDA { return m > 0x7f800000u; });  // above infinity
    uint32_t inside = bits([&](u32 m) METASD_LAMBDA { return (m - low) >> shift < bins; });
    const auto add = [&](int i) METASD_LAMBDA { ++counts[(magnitude_of(weights + j + i) - low) >> shift]; };
    if (inside == UINT32_MAX) {
      for (int i = 0; i < 32; ++i) add(i);
      return;
    }
    for (; inside; inside &= inside - 1) add(__builtin_ctz(inside));
  });
  into.nan |= nan != 0;
}
