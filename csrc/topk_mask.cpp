// Exact selection among the magnitude bits of floats, which order like the magnitudes themselves. A
// sample brackets the threshold between two values; one read of the weights writes the mask of what lies
// above and stores what lies between, usually 1 % of all; the threshold is found in there, and with it
// their bits. If the bracket misses, it has still narrowed the range, and the next one is drawn from
// that. If the threshold is an end of the bracket, where many weights may be equal, one more read writes
// the mask. No sort, no copy of the weights.

#include "topk_mask.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "parallel.h"
#include "passes.h"

namespace metasd {
namespace {

constexpr uint32_t kInfinity = 0x7f800000u;
constexpr int64_t kSample = 1 << 16;

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
      const uint32_t bits = magnitude_of(table.weights + row * table.stride + col);
      if (low <= bits && bits <= high) found.push_back(bits);
    }
    first = last;
  }
  return found;
}

// Two values of the sample that should have the `wanted`-th largest of `count` between them, three
// standard deviations to either side. Without a sample: everything; after three turns that did not end
// it, the middle, which halves what is left.
std::pair<uint32_t, uint32_t> bracket(std::vector<uint32_t> sample, double wanted, double count,
                                      uint32_t low, uint32_t high, int turn) {
  if (turn > 3) return {low + (high - low) / 2, low + (high - low) / 2};
  if (count <= kSample || sample.empty()) return {low, high};
  const double size = static_cast<double>(sample.size()), share = wanted / count;
  const double middle = share * size, slack = 3 * std::sqrt(size * share * (1 - share)) + 8;
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

// What a thread stores of the weights inside the bracket; memory that is not touched costs nothing.
struct Stored {
  std::unique_ptr<Candidate[]> candidates;
  MagnitudeScan scan;
  int64_t equal;  // of its weights, those equal to the threshold

  Candidate* begin() const { return candidates.get(); }
  Candidate* end() const { return candidates.get() + scan.found; }
};

// The smallest magnitude kept and how many of the weights equal to it are. Where it is `inside` the
// bracket, the mask is written but for the stored candidates.
struct Threshold {
  uint32_t magnitude;
  int64_t ties;
  bool inside;
};

// The rank-th largest magnitude of the candidates, and how many are larger: by counting them in bins of
// the bracket, then among the few of one bin.
std::pair<uint32_t, int64_t> ranked(const std::vector<Stored>& stored, int64_t rank) {
  const uint32_t low = stored[0].scan.low, high = stored[0].scan.high;
  int shift = 0;
  while ((high - low) >> shift >= 4096) ++shift;
  const auto bin_of = [=](const Candidate& candidate) { return (candidate.magnitude - low) >> shift; };
  std::vector<int64_t> counts(4096);
  for (const Stored& own : stored)
    for (const Candidate& candidate : own) ++counts[bin_of(candidate)];
  int64_t larger = 0;
  uint32_t bin = (high - low) >> shift;
  for (; larger + counts[bin] < rank; --bin) larger += counts[bin];

  std::vector<uint32_t> few;
  for (const Stored& own : stored)
    for (const Candidate& candidate : own)
      if (bin_of(candidate) == bin) few.push_back(candidate.magnitude);
  const auto nth = few.begin() + (rank - larger - 1);
  std::nth_element(few.begin(), nth, few.end(), std::greater<>());
  larger += std::count_if(few.begin(), nth, [&](uint32_t magnitude) { return magnitude > *nth; });
  return {*nth, larger};
}

// Nothing if a weight is NaN.
std::optional<Threshold> select(const std::vector<MaskedTable>& tables, int64_t keep,
                                std::vector<Stored>& stored) {
  const int threads = static_cast<int>(stored.size());
  int64_t total = 0;
  for (const MaskedTable& table : tables) total += table.rows * table.cols;
  const int64_t room = std::max(total / 16, kSample) / threads + kSample;
  for (Stored& own : stored) own.candidates.reset(new Candidate[room]);

  // The threshold is among the `count` weights in low .. high; `higher` weights lie above that range.
  uint32_t low = 0, high = kMagnitudeBits;
  int64_t higher = 0, count = total;
  for (int turn = 0;; ++turn) {
    const auto range = bracket(sample(tables, total, low, high), static_cast<double>(keep - higher),
                               static_cast<double>(count), low, high, turn);
    parallel_ranges(total_words(tables), threads, [&](int64_t begin, int64_t end, int thread) {
      MagnitudeScan& scan = stored[thread].scan;
      scan = {range.first, range.second, 0, 0, 0, stored[thread].begin(), 0, room, false};
      for_words(tables, begin, end, [&](const float* weights, int64_t n, uint32_t* mask) {
        passes().scan_magnitudes(weights, n, scan, mask);
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
    if (all.nan) return {};
    if (keep <= 0) return Threshold{UINT32_MAX, 0, false};

    const int64_t rank = keep - all.above;  // from the top of the bracket
    if (rank <= 0) {
      low = all.high + 1, count = all.above - higher;
    } else if (rank <= all.at_high) {
      for (Stored& own : stored) own.equal = own.scan.at_high;
      return Threshold{all.high, rank, false};
    } else if (rank <= all.at_high + all.found && !overflown) {
      const auto [threshold, larger] = ranked(stored, rank - all.at_high);
      for (Stored& own : stored)
        own.equal = std::count_if(own.begin(), own.end(), [t = threshold](const Candidate& candidate) {
          return candidate.magnitude == t;
        });
      return Threshold{threshold, rank - all.at_high - larger, true};
    } else if (rank <= all.at_high + all.found) {
      low = all.low + 1, high = all.high - 1;
      higher = all.above + all.at_high, count = all.found;
    } else if (rank <= all.at_high + all.found + all.at_low) {
      for (Stored& own : stored) own.equal = own.scan.at_low;
      return Threshold{all.low, rank - all.at_high - all.found, false};
    } else {
      const int64_t down_to_low = all.above + all.at_high + all.found + all.at_low;
      high = all.low - 1, count -= down_to_low - higher, higher = down_to_low;
    }
  }
}

}  // namespace

bool topk_mask(const std::vector<MaskedTable>& tables, int64_t keep, int threads) {
  std::vector<Stored> stored(threads);
  const std::optional<Threshold> threshold = select(tables, keep, stored);
  if (!threshold) return false;
  // The same ranges as in `select`: the first of the equal weights are those of the first threads.
  parallel_ranges(total_words(tables), threads, [&](int64_t begin, int64_t end, int thread) {
    int64_t ties = threshold->ties;
    for (int before = 0; before < thread; ++before) ties -= stored[before].equal;
    if (threshold->inside) {
      for (const Candidate& candidate : stored[thread]) {
        const bool equal = candidate.magnitude == threshold->magnitude;
        if (candidate.magnitude > threshold->magnitude || (equal && ties-- > 0))
          *candidate.word |= candidate.bit;
      }
      return;
    }
    for_words(tables, begin, end, [&](const float* weights, int64_t count, uint32_t* mask) {
      passes().write_mask(weights, count, threshold->magnitude, ties, mask);
    });
  });
  return true;
}

bool count_magnitudes(const MaskedTable& table, uint32_t low, int shift, int bins, int64_t* counts,
                      int threads) {
  std::vector<char> nan(threads);
  parallel_ranges(total_words({table}), threads, [&](int64_t begin, int64_t end, int thread) {
    MagnitudeCounts own{low, shift, static_cast<uint32_t>(bins), counts + int64_t{thread} * bins, false};
    for_words({table}, begin, end, [&](const float* weights, int64_t count, uint32_t* mask) {
      passes().count_magnitudes(weights, count, own, mask);
    });
    nan[thread] = own.nan;
  });
  return std::none_of(nan.begin(), nan.end(), [](char found) { return found; });
}

void threshold_mask(const MaskedTable& table, uint32_t threshold, const int64_t* ties, int threads) {
  parallel_ranges(total_words({table}), threads, [&](int64_t begin, int64_t end, int thread) {
    int64_t left = ties[thread];
    for_words({table}, begin, end, [&](const float* weights, int64_t count, uint32_t* mask) {
      passes().write_mask(weights, count, threshold, left, mask);
    });
  });
}

bool topk_mask_rows(const MaskedTable& table, int64_t keep, int threads) {
  const int64_t words = (table.cols + 31) / 32;
  std::vector<char> nan(threads);
  parallel_ranges(table.rows, threads, [&](int64_t begin, int64_t end, int thread) {
    std::vector<uint32_t> bits(table.cols);
    for (int64_t row = begin; row < end; ++row) {
      const float* weights = table.weights + row * table.stride;
      for (int64_t j = 0; j < table.cols; ++j) bits[j] = magnitude_of(weights + j);
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
