// Radix select on the 31 magnitude bits of a float, which order like the magnitudes themselves. Three
// reads of the weights: a histogram of the upper 16 bits, one of the lower 15 among the weights that
// share the threshold's upper bits, and the pass that writes the mask. A thread owns the same range of
// mask words in all three, so its own histogram says how many ties it holds and the tie rule needs no
// further pass. No sort, no copy of the weights.

#include "topk_mask.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"

namespace metasd {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
constexpr int kLowBits = 15;
constexpr int64_t kHighBins = int64_t{1} << 16, kLowBins = int64_t{1} << kLowBits;

uint32_t magnitude(const float* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits & kMagnitude;
}

// Calls body(weights, count, word) for the mask words begin .. end - 1 of all tables in order; a call
// covers whole words of one row: weights[0 .. count) go to the words from `word` on.
template <class Body>
void for_words(const std::vector<MaskedTable>& tables, int64_t begin, int64_t end, Body body) {
  int64_t first = 0;  // index of the table's first word
  for (const MaskedTable& table : tables) {
    const int64_t words = (table.cols + 31) / 32, last = first + words * table.rows;
    for (int64_t at = std::max(begin, first); at < std::min(end, last);) {
      const int64_t row = (at - first) / words, word = (at - first) % words;
      const int64_t stop = std::min(words, word + std::min(end, last) - at);
      const int64_t count = std::min(table.cols, stop * 32) - word * 32;
      body(table.weights + row * table.stride + word * 32, count, table.mask + row * words + word);
      at += stop - word;
    }
    first = last;
  }
}

int64_t total_words(const std::vector<MaskedTable>& tables) {
  int64_t words = 0;
  for (const MaskedTable& table : tables) words += (table.cols + 31) / 32 * table.rows;
  return words;
}

// One word: weights above the threshold, and the first `ties` (counted down) of those equal to it.
METASD_CLONES uint32_t mask_word(const float* weights, int count, uint32_t threshold, int64_t& ties) {
  uint32_t above = 0, equal = 0;
  if (count == 32) {
    for (int j = 0; j < 32; ++j) {
      const uint32_t bits = magnitude(weights + j);
      above |= static_cast<uint32_t>(bits > threshold) << j;
      equal |= static_cast<uint32_t>(bits == threshold) << j;
    }
  } else {
    for (int j = 0; j < count; ++j) {
      const uint32_t bits = magnitude(weights + j);
      above |= static_cast<uint32_t>(bits > threshold) << j;
      equal |= static_cast<uint32_t>(bits == threshold) << j;
    }
  }
  for (; equal && ties > 0; equal &= equal - 1, --ties) above |= equal & -equal;
  return above;
}

// The bin that holds the `wanted`-th largest value (1-based); `wanted` becomes its rank inside the bin.
int64_t select_bin(const int64_t* histogram, int64_t bins, int64_t& wanted) {
  for (int64_t bin = bins - 1; bin > 0; --bin) {
    if (histogram[bin] >= wanted) return bin;
    wanted -= histogram[bin];
  }
  return 0;
}

METASD_CLONES bool any_in_bin(const float* weights, int64_t count, uint32_t bin) {
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (magnitude(weights + i) >> kLowBits) == bin;
  return found;
}

struct Histograms {
  // Two copies of the upper one: equal neighbours would wait for each other's increment.
  uint32_t high[2][kHighBins], low[kLowBins];
  bool nan;
};

}  // namespace

bool topk_mask(const std::vector<MaskedTable>& tables, int64_t keep, int threads) {
  const int64_t words = total_words(tables);
  const auto own = std::make_unique<std::unique_ptr<Histograms>[]>(threads);

  parallel_ranges(words, threads, [&](int64_t begin, int64_t end, int thread) {
    own[thread] = std::make_unique<Histograms>();
    Histograms& h = *own[thread];
    uint32_t largest = 0;
    for_words(tables, begin, end, [&](const float* weights, int64_t count, uint32_t*) {
      int64_t i = 0;
      for (; i + 2 <= count; i += 2) {
        const uint32_t a = magnitude(weights + i), b = magnitude(weights + i + 1);
        ++h.high[0][a >> kLowBits], ++h.high[1][b >> kLowBits];
        largest = std::max(largest, std::max(a, b));
      }
      if (i < count) {
        const uint32_t a = magnitude(weights + i);
        ++h.high[0][a >> kLowBits];
        largest = std::max(largest, a);
      }
    });
    h.nan = largest > kInfinity;
  });
  for (int thread = 0; thread < threads; ++thread)
    if (own[thread]->nan) return false;
  if (keep <= 0) {
    for (const MaskedTable& table : tables)
      std::memset(table.mask, 0, sizeof(uint32_t) * ((table.cols + 31) / 32) * table.rows);
    return true;
  }

  std::vector<int64_t> histogram(kHighBins);
  for (int64_t bin = 0; bin < kHighBins; ++bin)
    for (int thread = 0; thread < threads; ++thread)
      histogram[bin] += int64_t{own[thread]->high[0][bin]} + own[thread]->high[1][bin];
  int64_t ties = keep;
  const uint32_t high = static_cast<uint32_t>(select_bin(histogram.data(), kHighBins, ties));

  parallel_ranges(words, threads, [&](int64_t begin, int64_t end, int thread) {
    Histograms& h = *own[thread];
    for_words(tables, begin, end, [&](const float* weights, int64_t count, uint32_t*) {
      constexpr int64_t kStep = 64;
      for (int64_t i = 0; i < count; i += kStep) {
        const int64_t step = std::min(kStep, count - i);
        if (!any_in_bin(weights + i, step, high)) continue;
        for (int64_t j = i; j < i + step; ++j)
          if (magnitude(weights + j) >> kLowBits == high)
            ++h.low[magnitude(weights + j) & (kLowBins - 1)];
      }
    });
  });
  histogram.assign(kLowBins, 0);
  for (int64_t bin = 0; bin < kLowBins; ++bin)
    for (int thread = 0; thread < threads; ++thread) histogram[bin] += own[thread]->low[bin];
  const uint32_t low = static_cast<uint32_t>(select_bin(histogram.data(), kLowBins, ties));
  const uint32_t threshold = high << kLowBits | low;

  parallel_ranges(words, threads, [&](int64_t begin, int64_t end, int thread) {
    int64_t left = ties;
    for (int before = 0; before < thread; ++before) left -= own[before]->low[low];
    for_words(tables, begin, end, [&](const float* weights, int64_t count, uint32_t* word) {
      for (int64_t i = 0; i < count; i += 32)
        *word++ = mask_word(weights + i, static_cast<int>(std::min<int64_t>(32, count - i)),
                            threshold, left);
    });
  });
  return true;
}

bool topk_mask_rows(const MaskedTable& table, int64_t keep, int threads) {
  const int64_t words = (table.cols + 31) / 32;
  std::vector<char> nan(threads);
  parallel_ranges(table.rows, threads, [&](int64_t begin, int64_t end, int thread) {
    std::vector<uint32_t> bits(table.cols);
    for (int64_t row = begin; row < end; ++row) {
      const float* weights = table.weights + row * table.stride;
      for (int64_t j = 0; j < table.cols; ++j) bits[j] = magnitude(weights + j);
      nan[thread] |= *std::max_element(bits.begin(), bits.end()) > kInfinity;
      uint32_t threshold = UINT32_MAX;
      int64_t ties = 0;
      if (keep > 0) {
        std::nth_element(bits.begin(), bits.begin() + (keep - 1), bits.end(), std::greater<>());
        threshold = bits[keep - 1];
        ties = std::count(bits.begin(), bits.begin() + keep, threshold);
      }
      for (int64_t word = 0; word < words; ++word)
        table.mask[row * words + word] =
            mask_word(weights + word * 32,
                      static_cast<int>(std::min<int64_t>(32, table.cols - word * 32)), threshold, ties);
    }
  });
  return std::none_of(nan.begin(), nan.end(), [](char found) { return found; });
}

}  // namespace metasd
