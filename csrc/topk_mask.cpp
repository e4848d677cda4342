// Exact selection among the magnitude bits of floats, which order like the magnitudes themselves. A
// sample brackets the threshold between two values; one read of the weights counts what lies above
// them and stores what lies between, usually 2 % of all; the threshold is found in there. One more
// read writes the mask. If the bracket misses, it has still narrowed the range, and the next one is
// drawn from that. No sort, no copy of the weights.

#include "topk_mask.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>

#include "parallel.h"
#include "passes.h"

namespace metasd {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
constexpr int64_t kSample = 1 << 17;

uint32_t magnitude(const float* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits & kMagnitude;
}

// Calls body(weights, count, word) for the mask words begin .. end - 1 of all tables in order; a call
// covers whole words of one row: weights[0 .. count) go to the words from `word` on. Rows that follow
// each other without padding are one.
template <class Body>
void for_words(const std::vector<MaskedTable>& tables, int64_t begin, int64_t end, Body body) {
  int64_t first = 0;  // index of the table's first word
  for (const MaskedTable& table : tables) {
    const bool flat = table.cols % 32 == 0 && table.stride == table.cols;
    const int64_t cols = flat ? table.cols * table.rows : table.cols, rows = flat ? 1 : table.rows;
    const int64_t words = (cols + 31) / 32, last = first + words * rows;
    for (int64_t at = std::max(begin, first); at < std::min(end, last);) {
      const int64_t row = (at - first) / words, word = (at - first) % words;
      const int64_t stop = std::min(words, word + std::min(end, last) - at);
      const int64_t count = std::min(cols, stop * 32) - word * 32;
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

// About kSample magnitudes between `low` and `high`, evenly spread.
std::vector<uint32_t> sample(const std::vector<MaskedTable>& tables, int64_t total, uint32_t low,
                             uint32_t high) {
  std::vector<uint32_t> found;
  const int64_t step = std::max<int64_t>(1, total / kSample);
  int64_t next = step / 2, first = 0;  // indices over all weights
  for (const MaskedTable& table : tables) {
    const int64_t last = first + table.rows * table.cols;
    for (; next < last; next += step) {
      const int64_t row = (next - first) / table.cols, col = (next - first) % table.cols;
      const uint32_t bits = magnitude(table.weights + row * table.stride + col);
      if (low <= bits && bits <= high) found.push_back(bits);
    }
    first = last;
  }
  return found;
}

// Two values of the sample that should have the `wanted`-th largest of `count` between them, four
// standard deviations to either side. Without a sample: everything; after three turns that did not end
// it, the middle, which halves what is left.
std::pair<uint32_t, uint32_t> bracket(std::vector<uint32_t> sample, double wanted, double count,
                                      uint32_t low, uint32_t high, int turn) {
  if (turn > 3) return {low + (high - low) / 2, low + (high - low) / 2};
  if (count <= kSample || sample.empty()) return {low, high};
  const double size = static_cast<double>(sample.size()), share = wanted / count;
  const double middle = share * size, slack = 4 * std::sqrt(size * share * (1 - share)) + 8;
  auto end = sample.end();
  const auto largest = [&](double rank, uint32_t beyond) {
    if (rank < 0 || rank >= size) return beyond;
    const auto nth = sample.begin() + static_cast<int64_t>(rank);
    std::nth_element(sample.begin(), nth, end, std::greater<>());
    end = nth + 1;  // the next one asked for is larger
    return *nth;
  };
  const uint32_t lower = largest(middle + slack, low);
  return {lower, largest(middle - slack, high)};
}

// The smallest magnitude kept, how many weights equal to it are, and how many of those each thread has.
struct Threshold {
  uint32_t bits;
  int64_t ties;
  std::vector<int64_t> equal;
  bool nan;
};

// What a thread stores of the weights inside the bracket; memory that is not touched costs nothing.
struct Stored {
  std::unique_ptr<uint32_t[]> bits;
  MagnitudeScan scan;

  const uint32_t* begin() const { return bits.get(); }
  const uint32_t* end() const { return bits.get() + scan.found; }
};

template <class CountEqual>
Threshold threshold_at(uint32_t bits, int64_t ties, const std::vector<Stored>& stored, CountEqual equal) {
  Threshold result{bits, ties, {}, false};
  for (const Stored& own : stored) result.equal.push_back(equal(own));
  return result;
}

Threshold select(const std::vector<MaskedTable>& tables, int64_t keep, int threads) {
  const int64_t words = total_words(tables);
  int64_t total = 0;
  for (const MaskedTable& table : tables) total += table.rows * table.cols;
  const int64_t room = std::max(total / 16, kSample) / threads + kSample;
  std::vector<Stored> stored(threads);
  for (Stored& own : stored) own.bits.reset(new uint32_t[room]);

  // The threshold is among the `count` weights in low .. high; `higher` weights lie above that range.
  uint32_t low = 0, high = kMagnitude;
  int64_t higher = 0, count = total;
  for (int turn = 0;; ++turn) {
    const auto range = bracket(sample(tables, total, low, high), static_cast<double>(keep - higher),
                               static_cast<double>(count), low, high, turn);
    parallel_ranges(words, threads, [&](int64_t begin, int64_t end, int thread) {
      MagnitudeScan& scan = stored[thread].scan;
      scan = {range.first, range.second, 0, 0, 0, stored[thread].bits.get(), 0, room, false};
      for_words(tables, begin, end, [&](const float* weights, int64_t n, uint32_t*) {
        passes().scan_magnitudes(weights, n, scan);
      });
    });
    MagnitudeScan all{range.first, range.second};
    bool overflown = false;
    for (const Stored& own : stored) {
      all.above += own.scan.above, all.found += own.scan.found;
      all.at_high += own.scan.at_high, all.at_low += own.scan.at_low;
      all.nan |= own.scan.nan;
      overflown |= own.scan.found > room;
    }
    if (all.nan || keep <= 0) return {UINT32_MAX, 0, std::vector<int64_t>(threads), all.nan};

    const int64_t rank = keep - all.above;  // from the top of the bracket
    if (rank <= 0) {
      low = all.high + 1, count = all.above - higher;
    } else if (rank <= all.at_high) {
      return threshold_at(all.high, rank, stored, [](const Stored& s) { return s.scan.at_high; });
    } else if (rank <= all.at_high + all.found && !overflown) {
      std::vector<uint32_t> bits;
      for (const Stored& own : stored) bits.insert(bits.end(), own.begin(), own.end());
      const auto nth = bits.begin() + (rank - all.at_high - 1);
      std::nth_element(bits.begin(), nth, bits.end(), std::greater<>());
      const uint32_t found = *nth;
      const int64_t larger = std::count_if(bits.begin(), nth, [=](uint32_t b) { return b > found; });
      return threshold_at(found, rank - all.at_high - larger, stored, [=](const Stored& s) {
        return std::count(s.begin(), s.end(), found);
      });
    } else if (rank <= all.at_high + all.found) {
      low = all.low + 1, high = all.high - 1;
      higher = all.above + all.at_high, count = all.found;
    } else if (rank <= all.at_high + all.found + all.at_low) {
      return threshold_at(all.low, rank - all.at_high - all.found, stored,
                          [](const Stored& s) { return s.scan.at_low; });
    } else {
      const int64_t down_to_low = all.above + all.at_high + all.found + all.at_low;
      high = all.low - 1, count -= down_to_low - higher, higher = down_to_low;
    }
  }
}

}  // namespace

bool topk_mask(const std::vector<MaskedTable>& tables, int64_t keep, int threads) {
  const Threshold threshold = select(tables, keep, threads);
  if (threshold.nan) return false;
  parallel_ranges(total_words(tables), threads, [&](int64_t begin, int64_t end, int thread) {
    int64_t ties = threshold.ties;
    for (int before = 0; before < thread; ++before) ties -= threshold.equal[before];
    for_words(tables, begin, end, [&](const float* weights, int64_t count, uint32_t* mask) {
      passes().write_mask(weights, count, threshold.bits, ties, mask);
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
      passes().write_mask(weights, table.cols, threshold, ties, table.mask + row * words);
    }
  });
  return std::none_of(nan.begin(), nan.end(), [](char found) { return found; });
}

}  // namespace metasd
